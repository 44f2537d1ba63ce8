"""Converts a model of any supported library into a :class:`Model`."""

import inspect
from typing import Any

import flax.linen as nn
from flax import nnx

from ..errors import UsageError
from .foreign_models import code_for
from .function_model import from_function
from .linen_model import from_linen
from .model import Model
from .nnx_model import from_nnx


def as_model(model: Any) -> Model:
    """Converts a model of any supported library into a :class:`Model`.

    Args:
        model: An NNX module; a pair ``(linen_module, variables)`` or a bound Linen module; a pair
            ``(function, params)`` with ``function(params, **batch)``, which may also take ``train``
            and ``rng``; or a :class:`Model`.

    Raises:
        UsageError: ``model`` is none of these. For objects of other libraries the message shows the
            code that converts them; ``docs/models.md`` has it in full.

    Examples:
        >>> import jax.numpy as jnp
        >>> model = as_model((lambda params, x: x * params["w"], {"w": jnp.float32(2)}))
        >>> outputs, state = model.apply(model.params, {}, {"x": jnp.float32(3)}, train=False)
        >>> print(outputs)
        6.0
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, nnx.Module):
        return from_nnx(model)
    if isinstance(model, nn.Module):
        if model.scope is None:
            raise UsageError(
                f"The Linen module {type(model).__name__} holds no weights: give the pair (module, "
                "variables), with variables = module.init(key, inputs)."
            )
        return from_linen(*model.unbind())
    if isinstance(model, tuple) and len(model) == 2 and not hasattr(model, "_fields"):
        return _from_pair(*model)
    _refuse_class(model)
    code = code_for(model)
    if code is not None:
        raise UsageError(code)
    raise UsageError(
        "A model must be an NNX module, (linen_module, variables), (function, params) or a Model, "
        f"got {type(model).__name__}."
    )


def _from_pair(code: Any, weights: Any) -> Model:
    owner = getattr(code, "__self__", None)
    if isinstance(owner, nn.Module) and code.__name__ == "apply":
        code = owner
    if isinstance(code, nn.Module):
        return from_linen(code, weights)
    if isinstance(code, nnx.Module):
        raise UsageError(
            f"The NNX module {type(code).__name__} holds its weights: give it alone, not in a pair."
        )
    _refuse_class(code)
    if not callable(code) or code_for(code) is not None:
        raise UsageError(
            "A pair must be (linen_module, variables) or (function, params), got "
            f"({type(code).__name__}, {type(weights).__name__})."
        )
    return from_function(code, weights)


def _refuse_class(code: Any) -> None:
    if inspect.isclass(code):
        raise UsageError(f"{code.__name__} is a class: give an instance of it.")
