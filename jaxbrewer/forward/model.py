"""Any model as one pure function over plain dicts of arrays.

Everything to the right of this module sees a model only as
``apply(params, state, batch, train=, rng=, args=) -> (outputs, new_state)``. ``params`` are what
an optimizer moves, ``state`` is what a forward pass may change (batch statistics); both are nested
dicts with string keys, whatever the library, so that rules and checkpoints see stable paths.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import core, nnx

from ..errors import UsageError
from .capture import Select, call_linen, call_nnx

PyTree = Any
Batch = Any
"""A mapping (keyword arguments of the model), a tuple or list (positional ones), or one array."""


class Apply(Protocol):
    """A model's forward pass."""

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: Batch,
        *,
        train: bool,
        rng: jax.Array | None = None,
        args: Mapping[str, Any] = {},
    ) -> tuple[Any, PyTree]:
        """Returns the model's outputs and its new state; ``args`` are further keywords."""
        ...


@dataclasses.dataclass(frozen=True)
class Model:
    """A forward pass, the weights it starts from, and the way back to the user's object.

    Attributes:
        apply: The pure forward pass.
        params: Trainable weights, a nested dict of arrays.
        state: What a forward pass changes; ``{}`` for most models.
        export: ``(params, state) -> object`` of the kind the user gave, with these weights.
        write_back: As ``export``, but an NNX module is updated in place and returned.
        takes: Names of the batch entries that the model's signature takes; ``None`` for all.
        partitioning: Where a module says how an array is to be split over a mesh: by path, its
            names joined by ``/``, an axis of the mesh or ``None`` for each axis of the array.
        capturing: ``select -> apply`` whose outputs are ``(outputs, {path: output})``, the second
            with what the submodules whose path ``select`` accepts returned; ``None`` for a
            function, which has no submodules.
    """

    apply: Apply
    params: PyTree
    state: PyTree = dataclasses.field(default_factory=dict)
    export: Callable[[PyTree, PyTree], Any] = lambda params, state: params
    write_back: Callable[[PyTree, PyTree], Any] = lambda params, state: params
    takes: frozenset[str] | None = None
    partitioning: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    capturing: Callable[[Select], Apply] | None = None

    @property
    def variables(self) -> dict[str, PyTree]:
        """``{"params": ..., "state": ...}``, the form in which a step takes a teacher."""
        return {"params": self.params, "state": self.state}


def as_model(model: Any) -> Model:
    """The :class:`Model` of whatever a user calls a model.

    Args:
        model: An NNX module; a pair ``(linen_module, variables)``; a pair ``(function, params)``
            with ``function(params, **batch)``, which may also take ``train`` and ``rng``; or a
            :class:`Model`.

    Raises:
        UsageError: It is none of these.

    Examples:
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
        raise UsageError(
            "A Linen module has no weights of its own: give the pair (module, variables)."
        )
    raise UsageError(
        "A model must be an NNX module, (linen_module, variables), (function, params) or a Model, "
        f"got {type(model).__name__}."
    )


def from_nnx(model: nnx.Module) -> Model:
    """The :class:`Model` of an NNX module, which is left as it is.

    In training, dropout is on and batch statistics move; otherwise not, whatever mode the module
    itself is in. Every RNG stream of the module is drawn from the ``rng`` of the call.
    """
    graphs: dict[bool, Any] = {}
    for train in (True, False):
        view = nnx.view(
            model, deterministic=not train, use_running_average=not train, raise_if_not_found=False
        )
        graphs[train], *parts = nnx.split(view, nnx.Param, nnx.RngState, ...)
    own_params, streams, own_state = map(nnx.to_pure_dict, parts)
    is_kept = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))
    call = _Call(model.__call__)

    def merge(train: bool, params: PyTree, state: PyTree, rng: jax.Array | None) -> Any:
        drawn = streams if rng is None else _reseed(streams, rng)
        weights = _like(own_params, params), _like(own_state, state)
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
        nnx.update(model, _like(own_params, params))
        nnx.update(model, _like(own_state, state))
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


def from_linen(
    module: nn.Module, variables: Mapping[str, Any], *, rngs: tuple[str, ...] = ("dropout",)
) -> Model:
    """The :class:`Model` of a Linen module and its variables.

    Args:
        module: The module. Its ``train``, ``training``, ``is_training`` or ``deterministic``
            argument, if it has one, is set for it.
        variables: ``{"params": ..., ...}`` as ``module.init`` returns them; the other collections
            are the model's state.
        rngs: The names of the RNG streams that the module draws from in training.
    """
    state = core.unfreeze(nn.meta.unbox(variables))
    if "params" not in state:
        raise UsageError(f"Linen variables need a 'params' collection, got {sorted(state)}.")
    params = state.pop("params")
    call = _Call(module.__call__)
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


def from_function(function: Callable[..., Any], params: PyTree) -> Model:
    """The :class:`Model` of ``function(params, ...) -> outputs``.

    Dict batches are its keyword arguments, tuples its positional ones. If it has parameters
    ``train`` or ``rng``, it is told the mode and given a key (``None`` outside training).
    """
    call = _Call(function, skip=1)

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


class _Call:
    """Calls a model as its signature asks: its batch entries, its mode flag, its key.

    Entries that the signature does not name (``labels``, say) are for the adaptor and are not
    passed; a signature with ``**kwargs`` gets everything.
    """

    _MODES: ClassVar = {
        "train": True,
        "training": True,
        "is_training": True,
        "deterministic": False,
    }

    def __init__(self, function: Callable[..., Any], *, skip: int = 0):
        parameters = list(inspect.signature(function).parameters.values())[skip:]
        kinds = {parameter.kind for parameter in parameters}
        names = [parameter.name for parameter in parameters]
        self._mode = next((name for name in names if name in self._MODES), None)
        self._rng = "rng" in names
        entries = [
            parameter for parameter in parameters if parameter.name not in (self._mode, "rng")
        ]
        self.takes = (
            None
            if inspect.Parameter.VAR_KEYWORD in kinds
            else frozenset(parameter.name for parameter in entries)
        )
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        self._positional = (
            None
            if inspect.Parameter.VAR_POSITIONAL in kinds
            else sum(parameter.kind in positional for parameter in entries)
        )

    def __call__(
        self,
        function: Callable[..., Any],
        batch: Batch,
        args: Mapping[str, Any],
        *,
        train: bool,
        rng: jax.Array | None = None,
    ) -> Any:
        keywords = dict(args)
        if self._mode is not None and self._mode not in keywords:
            keywords[self._mode] = train == self._MODES[self._mode]
        if self._rng:
            keywords["rng"] = rng
        if isinstance(batch, Mapping):
            entries = {
                name: value
                for name, value in batch.items()
                if self.takes is None or name in self.takes
            }
            return function(**entries, **keywords)
        if isinstance(batch, (list, tuple)):
            return function(*batch[: self._positional], **keywords)
        return function(batch, **keywords)


def _reseed(streams: PyTree, rng: jax.Array) -> PyTree:
    """Every key of the RNG state drawn anew from ``rng``, every counter at 0."""
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


def _like(template: PyTree, tree: PyTree) -> PyTree:
    """``tree`` with the keys of ``template``, which may be ints (the layers of a list)."""
    if isinstance(template, Mapping):
        return {key: _like(value, tree[str(key)]) for key, value in template.items()}
    return tree
