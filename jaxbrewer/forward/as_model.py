"""Converts a model of any supported library into a :class:`Model`."""

from typing import Any

import flax.linen as nn
from flax import nnx

from ..errors import UsageError
from .function_model import from_function
from .linen_model import from_linen
from .model import Model
from .nnx_model import from_nnx


def as_model(model: Any) -> Model:
    """Converts a model of any supported library into a :class:`Model`.

    Args:
        model: An NNX module; a pair ``(linen_module, variables)``; a pair ``(function, params)``
            with ``function(params, **batch)``, which may also take ``train`` and ``rng``; or a
            :class:`Model`.

    Raises:
        UsageError: ``model`` is none of these.

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
    if isinstance(model, tuple) and len(model) == 2:
        if isinstance(model[0], nn.Module):
            return from_linen(*model)
        if callable(model[0]):
            return from_function(*model)
    if isinstance(model, nn.Module):
        raise UsageError("A Linen module holds no weights: give the pair (module, variables).")
    raise UsageError(
        "A model must be an NNX module, (linen_module, variables), (function, params) or a Model, "
        f"got {type(model).__name__}."
    )
