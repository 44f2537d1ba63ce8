"""Detects losses and gradients that are not finite, and reports where they are.

The step returns flags. The host reads them when the device is ``LEAD`` steps further, and before
every checkpoint; the device never waits for that.
"""

import collections
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checksums import leaves_by_path
from ..errors import NonFiniteError, setting
from ..forward.model import PyTree
from ..losses import collect_facts
from ..objective.value_checks import FailedCheck, is_check, report
from ..step.optimizer import squared_norm
from ..step.state import TrainState
from ..step.train_step import TrainStep
from .device_scalars import DeviceScalars, StepScalars
from .step_log import LEAD

_GRADIENTS = "finite_gradients"


def finite_gradients(gradient: PyTree) -> dict[str, jax.Array]:
    """Whether each array of a gradient is finite, as an extra metric of the step.

    It looks at their squared norms, which the norm of the whole gradient needs anyway.
    """
    squares = [squared_norm(leaf) for leaf in jax.tree.leaves(gradient)]
    return {_GRADIENTS: jnp.isfinite(jnp.array(squares))}


FlaggedStep = Callable[
    [TrainState, PyTree, Any], tuple[TrainState, tuple[DeviceScalars[StepScalars], jax.Array]]
]
"""A train step that returns its scalars packed, and whether each array of the gradient is finite.

The second is bool, ``[arrays]``.
"""


def with_finite_flags(step: TrainStep, *, skips: bool) -> FlaggedStep:
    """Wraps a train step so that it also returns whether it was finite, and its facts.

    With a loss scale, overflows are normal and the step skips them itself; its flag is then true.

    Args:
        step: A train step with :func:`finite_gradients` among its metrics.
        skips: Whether a step that is not finite leaves the state unchanged. This costs memory and
            time, as the old and the new state exist together.

    Returns:
        ``step_with_flags(state, teacher_variables, batch) -> (state, (scalars, gradients))``.
    """

    def step_with_flags(
        state: TrainState, teacher_variables: PyTree, batch: Any
    ) -> tuple[TrainState, tuple[DeviceScalars[StepScalars], jax.Array]]:
        with collect_facts() as facts:
            moved, metrics = step(state, teacher_variables, batch)
        checks = {name: metrics.pop(name) for name in list(metrics) if is_check(name)}
        gradients = metrics.pop(_GRADIENTS)
        finite = jnp.isfinite(metrics["total_loss"]) & jnp.isfinite(metrics["grad_norm"])
        if state.loss_scale is not None:
            finite = jnp.bool_(True)
        elif skips:
            moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        # The flag is a float, as metrics are, so that one vector holds all.
        scalars = StepScalars(metrics, finite.astype(jnp.float32), checks)
        return moved, (DeviceScalars.of(scalars, facts), gradients)

    return step_with_flags


def nonfinite_arrays(tree: PyTree) -> list[str]:
    """The paths of arrays with a NaN or an infinity."""
    return [
        name
        for name, leaf in leaves_by_path(tree).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all()
    ]


class PendingStep(NamedTuple):
    """A step whose scalars may still be on the device.

    Attributes:
        number: Its number, from 1.
        batch: Its batches.
        scalars: Its scalars.
        gradients: Whether each array of the gradient is finite, bool, ``[arrays]``.
    """

    number: int
    batch: Any
    scalars: DeviceScalars[StepScalars]
    gradients: jax.Array


class NonFiniteGuard:
    """Reads the flags of a step, reports its checks and the first step that is not finite.

    Args:
        trainable: The arrays that the optimizer moves, by path.
    """

    def __init__(self, trainable: Mapping[str, jax.Array]):
        self._gradients = list(trainable)
        self._has_float16 = any(leaf.dtype == jnp.float16 for leaf in trainable.values())
        self._pending: collections.deque[PendingStep] = collections.deque()
        self._skipped = 0
        self._warned: set[str] = set()

    def add(
        self,
        number: int,
        batch: Any,
        scalars: DeviceScalars[StepScalars],
        gradients: jax.Array,
    ) -> None:
        """Takes what the wrapped step returned for step ``number``."""
        self._pending.append(PendingStep(number, batch, scalars, gradients))

    def first_nonfinite(self, *, lead: int = LEAD) -> PendingStep | None:
        """The first step that was not finite, at least ``lead`` steps behind the last.

        Raises:
            FailedCheck: A check of values failed.
        """
        while len(self._pending) > lead:
            watched = self._pending.popleft()
            scalars = watched.scalars.read()
            where = f"Step {watched.number}: "
            self._warned |= report(scalars.checks, where=where, known=self._warned)
            if not scalars.is_finite:
                return watched
        return None

    def has_fault(self) -> bool:
        """Whether a step that was not looked at yet is not finite or failed a check."""
        try:
            return self.first_nonfinite(lead=0) is not None
        except FailedCheck:
            return True

    def error(self, bad: PendingStep, arrays: Mapping[str, PyTree], kept: str) -> NonFiniteError:
        """The error to raise: it names the step and what is not finite in it.

        Args:
            bad: From :meth:`first_nonfinite`.
            arrays: Further trees to search, by the name they have in the message.
            kept: A sentence on the checkpoint that is left.
        """
        finite = np.asarray(bad.gradients)
        gradients = [name for name, fine in zip(self._gradients, finite, strict=True) if not fine]
        found = {f"{len(finite)} gradients": gradients} | {
            name: nonfinite_arrays(tree) for name, tree in arrays.items()
        }
        where = [f"Of the {name}: {_some(names)}." for name, names in found.items() if names]
        has_good_inputs = not any(found[name] for name in arrays)
        advice = [
            _advice_on_labels(bad) if has_good_inputs else "",
            _ADVICE_ON_FLOAT16 if self._has_float16 and has_good_inputs else "",
            _ADVICE_AT_STEP_1 if bad.number == 1 else _ADVICE,
            f"{setting('on_nonfinite', 'skip')} skips such steps.",
        ]
        return NonFiniteError(
            f"Step {bad.number} is not finite: {', '.join(_terms(bad))}. "
            f"{' '.join(filter(None, [*where, kept, *advice]))}"
        )

    def count_skipped(self, bad: PendingStep) -> None:
        """Counts a skipped step, and warns of the first."""
        self._skipped += 1
        if self._skipped == 1:
            warnings.warn(
                f"Step {bad.number} is not finite and was skipped: {', '.join(_terms(bad))}. "
                "Further skipped steps are counted and reported at the end.",
                stacklevel=3,
            )

    def report_skipped(self, steps: int) -> None:
        """Warns of the number of skipped steps, if there were several."""
        if self._skipped > 1:
            warnings.warn(
                f"{self._skipped} of {steps} steps were not finite and were skipped.",
                stacklevel=3,
            )


_ADVICE = "Lower the learning rate, clip gradients (max_grad_norm), or correct the data."
_ADVICE_AT_STEP_1 = (
    "At the first step no learning rate is to blame: correct the data, the weights or the loss."
)
_ADVICE_ON_FLOAT16 = (
    "The weights are float16, in which the eps of Adam, 1e-8, is 0, so that a gradient of 0 gives "
    "0 / 0: give the optimizer eps=1e-4, or keep float32 weights and set fp16."
)


def _advice_on_labels(bad: PendingStep) -> str:
    """What to look at if the loss on labels alone is not finite; else nothing."""
    losses = {
        name: value for name, value in bad.scalars.read().metrics.items() if "unweighted_" in name
    }
    nonfinite = [name for name, value in losses.items() if not np.isfinite(value)]
    if not nonfinite or not all("hard_label_loss" in name for name in nonfinite):
        return ""
    ranges = [
        f"{name} has values from {np.min(leaf)} to {np.max(leaf)}"
        for name, leaf in leaves_by_path(bad.batch).items()
        if "label" in name and np.size(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.integer)
    ]
    if not ranges:
        return ""
    return (
        "Each label must be the number of one of the student's logits, from 0, and an ignored one "
        f"must be masked: {_some(ranges)}."
    )


def _terms(bad: PendingStep) -> list[str]:
    values = bad.scalars.read().metrics
    return [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
