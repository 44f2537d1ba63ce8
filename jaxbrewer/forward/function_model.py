"""Plain functions of parameters as models."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from .model import Batch, Model, PyTree
from .model_call import ModelCall


def from_function(function: Callable[..., Any], params: PyTree) -> Model:
    """Converts ``function(params, ...) -> outputs`` into a :class:`Model`.

    A dict batch gives keyword arguments, a tuple positional ones. A parameter ``train`` receives
    the mode, a parameter ``rng`` a key (``None`` in evaluation).
    """
    call = ModelCall(function, skip=1)

    def apply(
        params: PyTree,
        state: PyTree,
        batch: Batch,
        *,
        train: bool,
        rng: jax.Array | None = None,
        args: Mapping[str, Any] = {},
    ) -> tuple[Any, PyTree]:
        def bound(*positional: Any, **keywords: Any) -> Any:
            return function(params, *positional, **keywords)

        return call(bound, batch, args, train=train, rng=rng), state

    return Model(apply, params, takes=call.takes)
