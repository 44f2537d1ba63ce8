"""NNX modules as models."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .capture import Select, call_nnx
from .evaluation_check import check_evaluation
from .model import Apply, Batch, Model, PyTree, check_variables
from .model_call import MODE_FLAGS, ModelCall, method_of
from .tree_keys import with_keys_of, with_string_keys


def from_nnx(
    model: nnx.Module,
    *,
    method: str = "__call__",
    sown: Sequence[type[nnx.Variable[Any]] | str] = (),
) -> Model:
    """Converts an NNX module into a :class:`Model`; the module itself is not changed.

    In training mode dropout is on and batch statistics are updated; in evaluation mode neither,
    whatever mode the module is in: bool attributes named ``train``, ``training``, ``is_training``,
    ``deterministic`` or ``use_running_average`` are set in every submodule. The ``rng`` of a call
    seeds every RNG stream of the module, and a parameter ``rngs`` of its signature.

    Args:
        model: The module.
        method: Name of the method that runs it.
        sown: Variable types, or their collection names, whose sown values the adaptor needs, such
            as the balancing loss of a mixture of experts. The model's outputs become the pair
            ``(outputs, {name: values})``, with the name of the type and, as ``nnx.capture`` gives
            them, nested dicts of tuples. Values sown into other types are dropped.

    Raises:
        UsageError: The module has no such method or, in a call, creates variables.

    Examples:
        >>> class Net(nnx.Module):
        ...     def __call__(self, x):
        ...         self.sow("losses", "size", jnp.sum(x))
        ...         return 2 * x
        >>> net = from_nnx(Net(), sown=["losses"])
        >>> (outputs, sown), _ = net.apply({}, {}, {"x": jnp.float32(3)}, train=False)
        >>> print(outputs, sown["losses"]["size"][0])
        6.0 3.0
    """
    graphs: dict[bool, Any] = {}
    for train in (True, False):
        graphs[train], *parts = nnx.split(_in_mode(model, train), nnx.Param, nnx.RngState, ...)
    own_params, streams, own_state = map(nnx.to_pure_dict, parts)
    is_kept = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))
    call = ModelCall(method_of(model, method, "from_nnx"))
    sown_types = {_collection(each): _variable_type(each) for each in sown}
    is_checked: list[bool] = []

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
            weights = with_keys_of(own_params, params), with_keys_of(own_state, state)

            def run(keys: PyTree, batch: Batch) -> tuple[Any, nnx.Module]:
                module = nnx.merge(graphs[train], weights[0], keys["streams"], weights[1])
                forward = functools.partial(
                    _call, method, call, batch=batch, args=args, train=train, rng=keys["call"]
                )
                outputs, captured, values = call_nnx(module, forward, select, sown_types)
                outputs = (outputs, values) if sown_types else outputs
                return (outputs if select is None else (outputs, captured)), module

            keys = {"streams": streams if rng is None else _reseed(streams, rng), "call": rng}
            if rng is not None:
                keys["call"] = jax.random.fold_in(rng, len(jax.tree.leaves(streams)))
            elif call.requires("rngs"):
                keys["call"] = jax.random.key(0)
            outputs, module = run(keys, batch)
            if not train and not is_checked:
                is_checked.append(True)
                check_evaluation(run, keys, batch, module, state)
            if not train or not own_state:
                return outputs, state
            new_state = with_string_keys(nnx.state(module, is_kept))
            check_variables(type(model).__name__, state, new_state, "create them in __init__")
            return outputs, new_state

        return apply

    def export(params: PyTree, state: PyTree) -> nnx.Module:
        weights = with_keys_of(own_params, params), with_keys_of(own_state, state)
        return nnx.merge(graphs[False], weights[0], streams, weights[1])

    def write_back(params: PyTree, state: PyTree) -> nnx.Module:
        nnx.update(model, with_keys_of(own_params, params))
        nnx.update(model, with_keys_of(own_state, state))
        return model

    return Model(
        capturing(None),
        with_string_keys(own_params),
        with_string_keys(own_state),
        export=export,
        write_back=write_back,
        takes=call.takes,
        partitioning={
            "/".join(map(str, path)): tuple(variable.get_metadata()["out_sharding"])
            for path, variable in nnx.to_flat_state(nnx.state(model))
            if variable.get_metadata().get("out_sharding")
        },
        capturing=capturing,
        variable_types={
            ".".join(map(str, path)): type(variable)
            for path, variable in nnx.to_flat_state(parts[0])
        },
        variable_ids={
            ".".join(map(str, path)): id(node)
            for path, node in nnx.iter_graph(model)
            if isinstance(node, nnx.Variable) and not isinstance(node, nnx.RngState)
        },
    )


def _in_mode(model: nnx.Module, train: bool) -> nnx.Module:
    """A copy of ``model`` in a mode, without the values that earlier calls left in it."""
    view = nnx.view(
        model, deterministic=not train, use_running_average=not train, raise_if_not_found=False
    )
    for _, module in nnx.iter_modules(view):
        for name, in_training in MODE_FLAGS.items():
            if isinstance(vars(module).get(name), bool):
                setattr(module, name, train == in_training)
    nnx.pop(view, nnx.Intermediate)
    return view


def _call(
    method: str,
    call: ModelCall,
    module: nnx.Module,
    *,
    batch: Batch,
    args: Mapping[str, Any],
    train: bool,
    rng: jax.Array | None,
) -> Any:
    rngs = None if rng is None else nnx.Rngs(rng)
    return call(getattr(module, method), batch, args, train=train, rng=rng, rngs=rngs)


def _collection(sown: type[nnx.Variable[Any]] | str) -> str:
    return sown if isinstance(sown, str) else sown.__name__


def _variable_type(sown: type[nnx.Variable[Any]] | str) -> type[nnx.Variable[Any]]:
    if isinstance(sown, str):
        return nnx.variable_type_from_name(sown, allow_register=True)
    return sown


def _reseed(streams: PyTree, rng: jax.Array) -> PyTree:
    """The RNG state with every key derived from ``rng`` and every counter at 0.

    A stream that was split, for layers made by ``nnx.vmap``, stays an array of as many keys.
    """
    leaves, treedef = jax.tree.flatten(streams)
    fresh = [
        _keys(jax.random.fold_in(rng, index), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros_like(leaf)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, fresh)


def _keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.split(key, shape) if shape else key
