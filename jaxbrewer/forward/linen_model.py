"""Linen modules and their variables as models."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import core
from flax.errors import InvalidRngError, ModifyScopeVariableError

from ..errors import UsageError
from .capture import Select, call_linen
from .model import Apply, Batch, Model, PyTree, check_variables
from .model_call import ModelCall, method_of


def from_linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    rngs: Sequence[str] = ("dropout",),
    method: str = "__call__",
    sown: Sequence[str] = (),
) -> Model:
    """Converts a Linen module and its variables into a :class:`Model`.

    Args:
        module: The module. If its signature has an argument ``train``, ``training``,
            ``is_training`` or ``deterministic``, each call sets it to the mode.
        variables: ``{"params": ..., ...}`` as ``module.init`` returns them; the other collections
            become the model's state, except for those with sown values.
        rngs: Names of RNG streams with a key of their own in training. Streams of other names share
            one key, as Flax's stream ``"params"``.
        method: Name of the method that runs the module.
        sown: Names of collections whose sown values the adaptor needs, such as the balancing loss
            of a mixture of experts. The model's outputs become the pair ``(outputs, {name:
            collection})``, as ``module.apply(..., mutable=sown)`` returns it. Values sown into
            other collections are dropped.

    Raises:
        UsageError: There are no parameters, or the module has no such method.

    Examples:
        >>> import jax.numpy as jnp
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         self.sow("losses", "size", jnp.sum(x))
        ...         return 2 * x
        >>> net = from_linen(Net(), {"params": {}}, sown=["losses"])
        >>> (outputs, sown), _ = net.apply({}, {}, {"x": jnp.float32(3)}, train=False)
        >>> print(outputs, sown["losses"]["size"][0])
        6.0 3.0
    """
    collections: dict[str, Any] = dict(core.unfreeze(nn.meta.unbox(variables)))
    if "params" not in collections:
        raise UsageError(f"Linen variables need a 'params' collection, got {sorted(collections)}.")
    params = collections.pop("params")
    state = {
        name: collection
        for name, collection in collections.items()
        if name not in ("intermediates", *sown) and not _is_sown(collection)
    }
    call = ModelCall(method_of(module, method, "from_linen"), random=("rng",))
    name = type(module).__name__
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
            mutable = [*(state if train else ()), *sown]

            def bound(*positional: Any, **keywords: Any) -> tuple[Any, PyTree]:
                changed: Any
                run = functools.partial(
                    module.apply,
                    {"params": params, **state},
                    *positional,
                    rngs=_streams(rng, rngs) if train else None,
                    method=method,
                    **keywords,
                )
                if select is not None:
                    outputs, changed, captured = call_linen(run, mutable, select)
                else:
                    outputs, changed = run(mutable=mutable) if mutable else (run(), {})
                changed = dict(core.unfreeze(changed))
                if sown:
                    outputs = outputs, {each: changed.pop(each, {}) for each in sown}
                return (outputs if select is None else (outputs, captured)), changed

            with contextlib.nullcontext() if train else _evaluation(name):
                outputs, changed = call(bound, batch, args, train=train, rng=rng)
            if not changed:
                return outputs, state
            check_variables(name, state, changed, "call module.init in training mode")
            return outputs, changed

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


def _is_sown(collection: PyTree) -> bool:
    """Whether a collection holds tuples, as ``sow`` appends values to."""
    leaves = jax.tree.leaves(collection, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return any(isinstance(leaf, tuple) for leaf in leaves)


def _streams(rng: jax.Array | None, names: Sequence[str]) -> dict[str, jax.Array] | None:
    if rng is None:
        return None
    streams = {name: jax.random.fold_in(rng, index) for index, name in enumerate(names)}
    return {"params": jax.random.fold_in(rng, len(names)), **streams}


@contextlib.contextmanager
def _evaluation(name: str) -> Iterator[None]:
    """Turns Flax's errors about an evaluation in training mode into one line."""
    remedy = "give it in evaluation mode, with module.clone(deterministic=True) for instance."
    try:
        yield
    except InvalidRngError as error:
        raise UsageError(
            f"{name} draws random numbers in evaluation ({_first_sentence(error)}): {remedy}"
        ) from None
    except ModifyScopeVariableError as error:
        raise UsageError(
            f"{name} updates its variables in evaluation ({_first_sentence(error)}): {remedy}"
        ) from None


def _first_sentence(error: Exception) -> str:
    return str(error).partition(" (http")[0].rstrip(".")
