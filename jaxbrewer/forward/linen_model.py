"""Linen modules and their variables as models."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import core

from ..errors import UsageError
from .capture import Select, call_linen
from .model import Apply, Batch, Model, PyTree
from .model_call import ModelCall


def from_linen(
    module: nn.Module, variables: Mapping[str, Any], *, rngs: tuple[str, ...] = ("dropout",)
) -> Model:
    """Converts a Linen module and its variables into a :class:`Model`.

    Args:
        module: The module. If its ``__call__`` has an argument ``train``, ``training``,
            ``is_training`` or ``deterministic``, each call sets it to the mode.
        variables: ``{"params": ..., ...}`` as ``module.init`` returns them; the other collections
            become the model's state.
        rngs: Names of the RNG streams that the module draws from in training.
    """
    state = core.unfreeze(nn.meta.unbox(variables))
    if "params" not in state:
        raise UsageError(f"Linen variables need a 'params' collection, got {sorted(state)}.")
    params = state.pop("params")
    call = ModelCall(module.__call__)
    specs, _ = jax.tree_util.tree_flatten_with_path(nn.get_partition_spec(variables))
    partitioning = {
        jax.tree_util.keystr(path[1:], simple=True, separator="/"): tuple(spec)
        for path, spec in specs
        if spec
    }

    def capturing(select: Select | None) -> Apply:
        def apply(
            params: PyTree,
            state: PyTree,
            batch: Batch,
            *,
            train: bool,
            rng: jax.Array | None = None,
            args: Mapping[str, Any] = {},
        ) -> tuple[Any, PyTree]:
            mutable = list(state) if train else []

            def bound(*positional: Any, **keywords: Any) -> Any:
                streams = (
                    {name: jax.random.fold_in(rng, index) for index, name in enumerate(rngs)}
                    if train and rng is not None
                    else None
                )
                run = functools.partial(
                    module.apply, {"params": params, **state}, *positional, rngs=streams, **keywords
                )
                if select is not None:
                    outputs, changed, captured = call_linen(run, mutable, select)
                    return (outputs, captured), changed if mutable else state
                return run(mutable=mutable) if mutable else (run(), state)

            outputs, new_state = call(bound, batch, args, train=train)
            return outputs, core.unfreeze(new_state)

        return apply

    def export(params: PyTree, state: PyTree) -> dict[str, PyTree]:
        return {"params": params, **state}

    return Model(
        capturing(None),
        params,
        state,
        export=export,
        write_back=export,
        takes=call.takes,
        partitioning=partitioning,
        capturing=capturing,
    )
