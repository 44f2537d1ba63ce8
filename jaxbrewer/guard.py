"""Losses and gradients that are not finite: noticed in the step, told of in words.

The guarded step leaves out an update that is not finite, so that the state stays the last good one.
It says so in a flag, which the host reads when the device is ``LEAD`` updates further; the device
never waits for that.
"""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .errors import NonFiniteError
from .functional import PyTree
from .integrity import leaves_by_path
from .state import TrainState
from .step import TrainStep
from .tracking import LEAD

Carried = tuple[TrainState, jax.Array]
"""A state, and whether the training has halted."""

Diagnosis = Callable[[TrainState, Any], Sequence[str]]
"""``diagnose(state, batch)``: what is not finite, in words."""


def guarded(
    step: TrainStep, *, halts: bool
) -> Callable[[Carried, PyTree, Any], tuple[Carried, tuple[dict[str, jax.Array], jax.Array]]]:
    """A step that leaves the state as it is where loss or gradient are not finite.

    With a loss scale the step does so itself, and lowers the scale: nothing is added then.

    Args:
        step: The train step.
        halts: Whether all that follows such an update is left out, too.

    Returns:
        ``guarded_step((state, halted), teacher_variables, batch)``, which gives the same pair, and
        ``(metrics, finite)``.
    """

    def guarded_step(
        carried: Carried, teacher_variables: PyTree, batch: Any
    ) -> tuple[Carried, tuple[dict[str, jax.Array], jax.Array]]:
        state, halted = carried
        moved, metrics = step(state, teacher_variables, batch)
        if state.loss_scale is not None:
            return (moved, halted), (metrics, jnp.bool_(True))
        finite = jnp.isfinite(metrics["total_loss"]) & jnp.isfinite(metrics["grad_norm"])
        halted = halted | ~finite if halts else ~finite
        kept = jax.tree.map(lambda new, old: jnp.where(halted, old, new), moved, state)
        return (kept, halted), (metrics, finite)

    return guarded_step


def names_of_nonfinite(tree: PyTree) -> list[str]:
    """The paths of the arrays that hold a NaN or an infinity."""
    return [
        name
        for name, leaf in leaves_by_path(tree).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all()
    ]


def finiteness() -> optax.GradientTransformation:
    """An optimizer that moves nothing and whose state says which gradients are finite."""

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(lambda _: jnp.bool_(True), params)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), updates)
        return jax.tree.map(jnp.zeros_like, updates), finite

    return optax.GradientTransformation(init, update)


class Watched(NamedTuple):
    """An update whose flag is still on the device."""

    number: int
    batch: Any
    metrics: Mapping[str, jax.Array]
    finite: jax.Array


class Guard:
    """Reads the flags of the guarded step, and tells of the first that is not set.

    Args:
        stops: Whether a non-finite update is an error; otherwise it is counted.
        diagnose: Finds out which gradients and inputs are to blame.
    """

    def __init__(self, *, stops: bool, diagnose: Diagnosis):
        self._stops, self._diagnose = stops, diagnose
        self._pending: collections.deque[Watched] = collections.deque()
        self._skipped = 0

    def add(
        self, number: int, batch: Any, metrics: Mapping[str, jax.Array], finite: jax.Array
    ) -> None:
        """Takes what the guarded step said of update ``number``."""
        self._pending.append(Watched(number, batch, metrics, finite))

    def first_bad(self, *, lead: int = LEAD) -> Watched | None:
        """The first update that was not finite, among those ``lead`` behind the last."""
        while len(self._pending) > lead:
            watched = self._pending.popleft()
            if not np.asarray(watched.finite):
                return watched
        return None

    def act(self, bad: Watched, state: TrainState, kept: str) -> None:
        """Raises the error of a bad update, or counts it.

        Args:
            bad: From :meth:`first_bad`.
            state: The state it met, if the guarded step halts.
            kept: What is still there, in words.

        Raises:
            NonFiniteError: Says which terms, gradients and inputs are not finite.
        """
        values = jax.device_get(dict(bad.metrics))
        terms = [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]
        if self._stops:
            found = "; ".join(self._diagnose(state, bad.batch))
            raise NonFiniteError(
                f"Update {bad.number} is not finite: {', '.join(terms)}. {found}. {kept} Lower the "
                "learning rate, clip gradients (max_grad_norm), mend the data, or leave such "
                "updates out by on_nonfinite='skip'."
            )
        self._skipped += 1
        if self._skipped == 1:
            warnings.warn(
                f"Update {bad.number} was left out, as it is not finite: {', '.join(terms)}. "
                "Further ones are counted, and told of at the end.",
                stacklevel=3,
            )

    def tell(self, updates: int) -> None:
        """Warns of how many updates were left out, if there were several."""
        if self._skipped > 1:
            warnings.warn(
                f"{self._skipped} of {updates} updates were left out, as they were not finite.",
                stacklevel=3,
            )


def diagnosis(
    step: TrainStep, teacher_variables: PyTree, prepare: Callable[[Any], Any]
) -> Diagnosis:
    """Runs an update again to find out what in it is not finite.

    Args:
        step: The train step with :func:`finiteness` as its optimizer.
        teacher_variables: Its second argument.
        prepare: Brings a batch to where the step expects it.
    """

    def diagnose(state: TrainState, batch: Any) -> list[str]:
        blank = dataclasses.replace(state, opt_state=finiteness().init(state.trainable))
        after, _ = jax.jit(step)(blank, teacher_variables, prepare(batch))
        finite = leaves_by_path(jax.device_get(after.opt_state))
        bad = [name for name, value in finite.items() if not value]
        found = [
            (f"Of {len(finite)} gradients", bad),
            ("Of the weights", names_of_nonfinite(state.trainable)),
            ("Of the teacher's arrays", names_of_nonfinite(teacher_variables)),
            ("Of the batch", names_of_nonfinite(batch)),
        ]
        return [
            f"{where} {', '.join(names[:5])}"
            + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            for where, names in found
            if names
        ]

    return diagnose
