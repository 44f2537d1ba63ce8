"""Losses and gradients that are not finite: noticed in the step, told of in words.

The step says in flags what is finite. The host reads them when the device is ``LEAD`` updates
further, and before every checkpoint; the device never waits for that.
"""

import collections
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checksums import leaves_by_path
from ..errors import NonFiniteError
from ..forward.model import PyTree
from ..step.optimizer import global_norm
from ..step.state import TrainState
from ..step.train_step import TrainStep
from .tracking import LEAD

_GRADIENTS = "finite_gradients"


class FiniteFlags(NamedTuple):
    """What is finite in an update: loss and gradient together, and each array of the gradient."""

    update: jax.Array
    gradients: jax.Array


def finite_gradients(gradient: PyTree) -> dict[str, jax.Array]:
    """Whether each array is finite, for the step to observe.

    By their norms, of which the norm of all of them is made anyway.
    """
    finite = [jnp.isfinite(global_norm(leaf)) for leaf in jax.tree.leaves(gradient)]
    return {_GRADIENTS: jnp.array(finite, bool)}


def with_finite_flags(
    step: TrainStep, *, skips: bool
) -> Callable[
    [TrainState, PyTree, Any], tuple[TrainState, tuple[dict[str, jax.Array], FiniteFlags]]
]:
    """A step that says whether it was finite.

    With a loss scale, overflows are normal, and the step leaves them out itself: there it says
    yes.

    Args:
        step: A train step that observes :func:`finite_gradients`.
        skips: Whether it leaves the state as it is where it was not. That takes room and time: the
            old state and the new one are there together.

    Returns:
        ``step_with_flags(state, teacher_variables, batch) -> (state, (metrics, finite))``.
    """

    def step_with_flags(
        state: TrainState, teacher_variables: PyTree, batch: Any
    ) -> tuple[TrainState, tuple[dict[str, jax.Array], FiniteFlags]]:
        moved, metrics = step(state, teacher_variables, batch)
        scalars = {name: value for name, value in metrics.items() if name != _GRADIENTS}
        if state.loss_scale is not None:
            return moved, (scalars, FiniteFlags(jnp.bool_(True), metrics[_GRADIENTS]))
        finite = jnp.isfinite(metrics["total_loss"]) & jnp.isfinite(metrics["grad_norm"])
        if skips:
            moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        return moved, (scalars, FiniteFlags(finite, metrics[_GRADIENTS]))

    return step_with_flags


def nonfinite_arrays(tree: PyTree) -> list[str]:
    """The paths of the arrays that hold a NaN or an infinity."""
    return [
        name
        for name, leaf in leaves_by_path(tree).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all()
    ]


class PendingStep(NamedTuple):
    """An update whose flags are still on the device."""

    number: int
    batch: Any
    metrics: Mapping[str, jax.Array]
    finite: FiniteFlags


class NonFiniteGuard:
    """Reads the flags of a step and reports the first step that is not finite.

    Args:
        gradients: Names of the arrays of the gradient.
    """

    def __init__(self, gradients: Sequence[str]):
        self._gradients = gradients
        self._pending: collections.deque[PendingStep] = collections.deque()
        self._skipped = 0

    def add(
        self, number: int, batch: Any, metrics: Mapping[str, jax.Array], finite: FiniteFlags
    ) -> None:
        """Takes what the step reported for update ``number``."""
        self._pending.append(PendingStep(number, batch, metrics, finite))

    def first_nonfinite(self, *, lead: int = LEAD) -> PendingStep | None:
        """The first update that was not finite, among those ``lead`` behind the last."""
        while len(self._pending) > lead:
            watched = self._pending.popleft()
            if not np.asarray(watched.finite.update):
                return watched
        return None

    def error(self, bad: PendingStep, arrays: Mapping[str, PyTree], kept: str) -> NonFiniteError:
        """What to raise: the update, its terms, gradients and inputs that are not finite.

        Args:
            bad: From :meth:`first_nonfinite`.
            arrays: Where else to look, by what it is called.
            kept: What is still there, in words.
        """
        finite = np.asarray(bad.finite.gradients)
        gradients = [name for name, fine in zip(self._gradients, finite, strict=True) if not fine]
        found = {f"{len(finite)} gradients": gradients} | {
            name: nonfinite_arrays(tree) for name, tree in arrays.items()
        }
        where = [f"Of the {name}: {_some(names)}." for name, names in found.items() if names]
        return NonFiniteError(
            f"Update {bad.number} is not finite: {', '.join(_terms(bad))}. "
            f"{' '.join([*where, kept])} "
            "Lower the learning rate, clip gradients (max_grad_norm), mend the data, or leave such "
            "updates out by on_nonfinite='skip'."
        )

    def count_skipped(self, bad: PendingStep) -> None:
        """Counts an update that was left out, and tells of the first."""
        self._skipped += 1
        if self._skipped == 1:
            warnings.warn(
                f"Update {bad.number} was left out, as it is not finite: "
                f"{', '.join(_terms(bad))}. Further ones are counted, and told of at the end.",
                stacklevel=3,
            )

    def report_skipped(self, updates: int) -> None:
        """Warns of how many updates were left out, if there were several."""
        if self._skipped > 1:
            warnings.warn(
                f"{self._skipped} of {updates} updates were left out, as they were not finite.",
                stacklevel=3,
            )


def _terms(bad: PendingStep) -> list[str]:
    values = jax.device_get(dict(bad.metrics))
    return [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
