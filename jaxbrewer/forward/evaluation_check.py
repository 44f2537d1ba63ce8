"""Notices an NNX module whose evaluation is noisy or depends on the other examples of a batch.

A module may switch dropout or batch statistics by an argument or an attribute that ``nnx.view``
does not know. Its targets would then be wrong without any error.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from .dependence import depends_on
from .model import Batch, PyTree

_REMEDY = (
    "Evaluation switches bool attributes and arguments named train, training, is_training, "
    "deterministic or use_running_average; a module that keeps its mode in another way must be "
    "switched to evaluation before it is passed."
)


def check_evaluation(
    run: Callable[[PyTree, Batch], tuple[Any, nnx.Module]],
    keys: PyTree,
    batch: Batch,
    module: nnx.Module,
    state: PyTree,
) -> None:
    """Warns if an evaluation depends on random keys or updates batch statistics.

    The module tells at once whether it drew a key or wrote a statistic. Only then is ``run`` traced
    again, to see whether the draw reaches the outputs, and whether the statistic depends on the
    batch.

    Args:
        run: ``(keys, batch) -> (outputs, module)``, an evaluation.
        keys: The random keys of the evaluation that was run.
        batch: Its batch.
        module: The module after it.
        state: The module's state before it.
    """
    drawn = _written(module, nnx.RngCount, keys["streams"])
    if (drawn or keys["call"] is not None) and _any(
        depends_on(lambda keys: run(keys, batch)[0], keys)
    ):
        warnings.warn(
            f"{type(module).__name__} draws random numbers in evaluation{_where(module, drawn)}, "
            f"the same ones for every batch, and its outputs depend on them. {_REMEDY}",
            stacklevel=2,
        )
    updated = _written(module, nnx.BatchStat, state)
    if updated and _any(depends_on(lambda batch: _pure(run(keys, batch)[1], nnx.BatchStat), batch)):
        warnings.warn(
            f"{type(module).__name__} updates batch statistics in evaluation"
            f"{_where(module, updated)}: its outputs depend on the other examples of a batch. "
            f"{_REMEDY}",
            stacklevel=2,
        )


def _written(
    module: nnx.Module, kind: type[nnx.Variable[Any]], before: PyTree
) -> list[tuple[Any, ...]]:
    """Paths of the variables whose value is another array than before the call."""
    known = {id(leaf) for leaf in jax.tree.leaves(before)}
    variables = nnx.to_flat_state(nnx.state(module, kind))
    return [path for path, variable in variables if id(variable.get_value()) not in known]


def _where(module: nnx.Module, paths: Sequence[tuple[Any, ...]]) -> str:
    """The submodule that holds the first of the variables, in words."""
    modules = dict(nnx.iter_modules(module))
    for path in paths:
        owner = max((each for each in modules if path[: len(each)] == each), key=len)
        if owner:
            return f" ({'.'.join(map(str, owner))}, {type(modules[owner]).__name__})"
    return ""


def _pure(module: nnx.Module, kind: type[nnx.Variable[Any]]) -> PyTree:
    return nnx.to_pure_dict(nnx.state(module, kind))


def _any(tree: PyTree) -> bool:
    return any(jax.tree.leaves(tree))
