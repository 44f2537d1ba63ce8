"""Checks of values, which tracing cannot see: computed in the step, reported by the host.

A check is one or more entries of the objective's terms under :data:`PREFIX`, so that micro-batches,
devices and tasks add it up like a loss. ``combine`` turns it into metrics; the training loop takes
these out of the metrics, reads them one step late and calls :func:`report`. Outside of a trace
``combine`` reports at once.
"""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ..losses import Mean, selected

PREFIX = "check/"
_COUNTS, _FRACTIONS, _PROBABILITIES = "unequal_counts", "fractional_mask", "probabilities"


class FailedCheck(UsageError):
    """Values of a batch that make its step wrong; nothing of the step should be kept."""


Checks = dict[str, tuple[Mean, ...]]
"""Entries of the objective's terms: ``<check>:found`` counts the batches in which the check found
something, further entries are means over these batches."""


def is_check(name: str) -> bool:
    """Whether a term or metric is a check; a task's name may stand before it."""
    return name.startswith(PREFIX) or f"/{PREFIX}" in name


def as_metric(name: str, mean: Mean) -> Array:
    """The value of a check among the metrics."""
    return mean.total if name.endswith(":found") else mean.value()


def unequal_counts(
    subject: str, mask_S: Shaped[Array, "*positions_S"], mask_T: Shaped[Array, "*positions_T"]
) -> Checks:
    """Finds an example of which the two masks select different numbers of positions.

    Args:
        subject: What the masks select, for the message: ``"logits[0]"``.
        mask_S: Student's mask.
        mask_T: Teacher's mask.
    """
    counts = [
        jnp.sum(selected(mask).reshape(mask.shape[0], -1), axis=1, dtype=jnp.int32)
        for mask in (mask_S, mask_T)
    ]
    differs = counts[0] != counts[1]
    first = jnp.argmax(differs)
    details = {"example": first, "student": counts[0][first], "teacher": counts[1][first]}
    return _check(_COUNTS, subject, jnp.any(differs), **details)


def fractional_mask(subject: str, mask: Shaped[Array, "..."]) -> Checks:
    """Finds a mask of floats with values other than 0 and 1; other dtypes are not checked.

    Args:
        subject: Whose mask it is, for the message: ``"the student's"``.
        mask: The mask.
    """
    if not jnp.issubdtype(mask.dtype, jnp.floating):
        return {}
    return _check(_FRACTIONS, subject, jnp.any((mask != 0) & (mask != 1)))


def probabilities(subject: str, scores: Float[Array, "batch ... keys"]) -> Checks:
    """Finds attention probabilities where scores before the softmax are due.

    Looks at the rows of the first and the last query: no number is negative, and each row adds up
    to 1, or to 0 at padding. No example is singled out, so that each device looks at its own.

    Args:
        subject: What they are, for the message.
        scores: Attention of a layer, ``[batch, [heads,] queries, keys]``.
    """
    if scores.ndim < 3:  # no attention; the loss refuses it
        return {}
    last = max(scores.shape[-2] - 1, 1)
    rows = jax.lax.stop_gradient(scores)[..., ::last, :].astype(jnp.float32)
    sums = jnp.sum(rows, axis=-1)
    adds_up, is_zero = jnp.abs(sums - 1) < 0.02, sums == 0
    found = jnp.all(adds_up | is_zero) & jnp.any(adds_up) & jnp.all(rows >= 0)
    return _check(_PROBABILITIES, subject, found)


def report(metrics: Mapping[str, Any], *, where: str = "", known: Collection[str] = ()) -> set[str]:
    """Raises or warns for each check among ``metrics`` that found something.

    Args:
        metrics: Concrete values; entries that are no checks are ignored.
        where: Begins an error: ``"Step 3: "``.
        known: Checks that are not reported again.

    Returns:
        The names of the checks that warned.

    Raises:
        FailedCheck: An example's masks select different numbers of positions.
    """
    warned = set()
    for name, value in metrics.items():
        check, _, part = name.rpartition(":")
        if not is_check(name) or part != "found" or check in known or not float(value) > 0:
            continue
        task, _, rest = check.rpartition(PREFIX)
        kind, _, subject = rest.partition("/")
        of_task = f" of the task {task.rstrip('/')!r}" if task else ""
        if kind == _COUNTS:
            raise FailedCheck(
                f"{where}{subject}{of_task}: the student's and the teacher's logits_mask select "
                f"{_counts(metrics, check)}. Positions that are paired by rank must be equally "
                "many in each example."
            )
        warnings.warn(_WARNINGS[kind].format(subject=f"{subject}{of_task}"), stacklevel=3)
        warned.add(check)
    return warned


_WARNINGS = {
    _FRACTIONS: (
        "{subject} logits_mask has values other than 0 and 1. A mask selects: every value but 0 "
        "counts as 1. Return weights as 'logits_weights' instead."
    ),
    _PROBABILITIES: (
        "{subject} looks like probabilities: no number is negative and each row adds up to 1. "
        "Attention losses compare scores before the softmax: return those as 'attention'."
    ),
}


def _counts(metrics: Mapping[str, Any], check: str) -> str:
    batches = round(float(metrics[f"{check}:found"]))
    if batches > 1:
        return f"different numbers of positions of an example, in {batches} batches"
    example, student, teacher = (
        round(float(metrics[f"{check}:{key}"])) for key in ("example", "student", "teacher")
    )
    return f"{student} and {teacher} positions of example {example}"


def _check(kind: str, subject: str, found: Array, **details: Array) -> Checks:
    name, number = f"{PREFIX}{kind}/{subject}", found.astype(jnp.float32)
    checks: Checks = {f"{name}:found": (Mean(number, jnp.ones((), jnp.float32)),)}
    for key, value in details.items():
        checks[f"{name}:{key}"] = (Mean(number * value.astype(jnp.float32), number),)
    return checks
