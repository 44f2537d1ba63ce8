"""Plain functions of parameters as models."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..errors import UsageError
from .model import Batch, Model, PyTree
from .model_call import ModelCall


def from_function(
    function: Callable[..., Any], params: PyTree, state: PyTree | None = None
) -> Model:
    """Converts ``function(params, ...) -> outputs`` into a :class:`Model`.

    A dict batch gives keyword arguments, a tuple positional ones. A parameter ``train`` receives
    the mode, a parameter ``rng`` a key (``None`` in evaluation).

    Args:
        function: The forward pass.
        params: Trainable weights, any pytree of arrays.
        state: Arrays that a training forward pass changes (batch statistics), any pytree. With it,
            the function is ``function(params, state, ...) -> (outputs, new_state)``.

    Raises:
        UsageError: A leaf of ``params`` or ``state`` is not an array.

    Examples:
        >>> import jax.numpy as jnp
        >>> def count(params, state, x, train):
        ...     return params * x, state + train
        >>> model = from_function(count, jnp.float32(2), state=jnp.int32(0))
        >>> outputs, state = model.apply(model.params, model.state, (3.0,), train=True)
        >>> print(outputs, state)
        6.0 1
    """
    has_state = state is not None
    call = ModelCall(function, skip=2 if has_state else 1, random=("rng",))
    for kind, tree in (("params", params), ("state", state)):
        _check_arrays(f"The {kind} of {call.name}", tree)

    def apply(
        params: PyTree,
        state: PyTree,
        batch: Batch,
        *,
        train: bool,
        rng: jax.Array | None = None,
        args: Mapping[str, Any] = {},
    ) -> tuple[Any, PyTree]:
        def bound(*positional: Any, **keywords: Any) -> tuple[Any, PyTree]:
            if not has_state:
                return function(params, *positional, **keywords), state
            outputs, new_state = function(params, state, *positional, **keywords)
            return outputs, new_state if train else state

        return call(bound, batch, args, train=train, rng=rng)

    def export(params: PyTree, state: PyTree) -> Any:
        return (params, state) if has_state else params

    return Model(
        apply,
        params,
        state if has_state else {},
        export=export,
        write_back=export,
        takes=call.takes,
    )


def _check_arrays(what: str, tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape")
        if not is_array and not isinstance(leaf, (int, float, complex, np.number)):
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UsageError(
                f"{what} must hold arrays, got {type(leaf).__name__}"
                + (f" at {where!r}" if where else "")
                + ": pass the arrays as params and close over the rest."
            )
