"""Whether distillation pays: a student against the same student on labels alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..run.results import Gain


def gap_closed(value: Any, alone: Any, teacher: Any) -> Any:
    """The share of the gap between labels alone and the teacher that a student closes.

    Args:
        value: A metric of the student: a number, or an array of samples.
        alone: That of the same student on labels alone.
        teacher: That of the teacher.

    Returns:
        The share, shaped like ``value``; NaN or infinite without a gap.

    Examples:
        >>> round(float(gap_closed(0.75, 0.6, 0.8)), 4)
        0.75
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.subtract(value, alone) / np.subtract(teacher, alone)


def verdict(ends: Sequence[float | None], *, larger_is_better: bool) -> str:
    """What the interval of a difference from labels alone says.

    Args:
        ends: Both ends of the interval; ``None`` where they are not defined.
        larger_is_better: The direction of the metric.

    Returns:
        ``"gain"``, ``"loss"`` or ``"no difference"``.

    Examples:
        >>> verdict([0.05, 0.15], larger_is_better=True)
        'gain'
        >>> verdict([0.05, 0.15], larger_is_better=False)
        'loss'
        >>> verdict([-0.05, 0.15], larger_is_better=True)
        'no difference'
    """
    low, high = ends
    if low is None or high is None or low <= 0 <= high:
        return "no difference"
    return "gain" if (low > 0) == larger_is_better else "loss"


def describe_gain(gain: Gain, metric: str) -> str:
    """A sentence about the main metric.

    Args:
        gain: The comparison.
        metric: The main metric.

    Examples:
        >>> gain = {"difference": {"accuracy": 0.089}, "verdict": "gain", "gap_closed": 0.72,
        ...     "difference_intervals": {"accuracy": [0.061, 0.117]}}
        >>> describe_gain(gain, "accuracy")
        'Distillation improved accuracy over labels alone by 0.089 [0.061, 0.117], 72 % of the gap
        to the teacher.'
        >>> describe_gain(gain | {"verdict": "loss", "gap_closed": None}, "perplexity")
        'perplexity cannot be compared with labels alone: it is not defined.'
    """
    value = gain["difference"].get(metric)
    low, high = gain["difference_intervals"].get(metric, (None, None))
    if value is None or low is None or high is None:
        return f"{metric} cannot be compared with labels alone: it is not defined."
    found = gain["verdict"]
    if found == "no difference":
        return (
            f"Distillation did not measurably change {metric}: the difference from labels alone is "
            f"{_number(value, '+')}, and its interval [{_number(low)}, {_number(high)}] contains 0."
        )
    ends = sorted((abs(low), abs(high)))
    size = f"{_number(abs(value))} [{_number(ends[0])}, {_number(ends[1])}]"
    if found == "loss":
        return (
            f"Distillation made {metric} worse than labels alone by {size}: prefer the student "
            "that learned from labels alone."
        )
    share = gain["gap_closed"]
    gap = "" if share is None else f", {100 * share:.0f} % of the gap to the teacher"
    return f"Distillation improved {metric} over labels alone by {size}{gap}."


def _number(value: float, sign: str = "") -> str:
    """A number with three decimals; a large one with none.

    Examples:
        >>> _number(0.0891), _number(0.01, "+"), _number(1234.5)
        ('0.089', '+0.010', '1,234')
    """
    return format(value, f"{sign},.{3 if abs(value) < 100 else 0}f")
