"""NNX modules as models."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .capture import Select, call_nnx
from .model import Apply, Batch, Model, PyTree
from .model_call import ModelCall


def from_nnx(model: nnx.Module) -> Model:
    """Converts an NNX module into a :class:`Model`; the module itself is not changed.

    In training mode dropout is on and batch statistics are updated; in evaluation mode neither,
    whatever mode the module is in. The ``rng`` of a call seeds every RNG stream of the module.
    """
    graphs: dict[bool, Any] = {}
    for train in (True, False):
        view = nnx.view(
            model, deterministic=not train, use_running_average=not train, raise_if_not_found=False
        )
        graphs[train], *parts = nnx.split(view, nnx.Param, nnx.RngState, ...)
    own_params, streams, own_state = map(nnx.to_pure_dict, parts)
    is_kept = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))
    call = ModelCall(model.__call__)

    def merge(train: bool, params: PyTree, state: PyTree, rng: jax.Array | None) -> Any:
        drawn = streams if rng is None else _reseed(streams, rng)
        weights = _with_keys_of(own_params, params), _with_keys_of(own_state, state)
        return nnx.merge(graphs[train], weights[0], drawn, weights[1])

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
            module = merge(train, params, state, rng)
            forward = functools.partial(call, batch=batch, args=args, train=train)
            outputs = forward(module) if select is None else call_nnx(module, forward, select)
            if not train or not own_state:
                return outputs, state
            return outputs, _string_keys(nnx.to_pure_dict(nnx.state(module, is_kept)))

        return apply

    def write_back(params: PyTree, state: PyTree) -> nnx.Module:
        nnx.update(model, _with_keys_of(own_params, params))
        nnx.update(model, _with_keys_of(own_state, state))
        return model

    return Model(
        capturing(None),
        _string_keys(own_params),
        _string_keys(own_state),
        export=lambda params, state: merge(False, params, state, None),
        write_back=write_back,
        takes=call.takes,
        partitioning={
            "/".join(map(str, path)): tuple(variable.get_metadata()["out_sharding"])
            for path, variable in nnx.to_flat_state(nnx.state(model))
            if variable.get_metadata().get("out_sharding")
        },
        capturing=capturing,
    )


def _reseed(streams: PyTree, rng: jax.Array) -> PyTree:
    """The RNG state with every key derived from ``rng`` and every counter at 0."""
    leaves, treedef = jax.tree.flatten(streams)
    fresh = [
        jax.random.fold_in(rng, index)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros_like(leaf)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, fresh)


def _string_keys(tree: PyTree) -> PyTree:
    if isinstance(tree, Mapping):
        return {str(key): _string_keys(value) for key, value in tree.items()}
    return tree


def _with_keys_of(template: PyTree, tree: PyTree) -> PyTree:
    """``tree`` with the keys of ``template``, which are ints for the layers of a list."""
    if isinstance(template, Mapping):
        return {key: _with_keys_of(value, tree[str(key)]) for key, value in template.items()}
    return tree
