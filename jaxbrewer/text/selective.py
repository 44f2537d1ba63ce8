"""Selective prediction: which of a student's answers can stand for the teacher's."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from ..errors import UsageError


@dataclasses.dataclass(frozen=True)
class Selection:
    """A threshold of confidence above which a student's answers are kept.

    Attributes:
        rate: The rate of agreement that was asked for.
        level: The confidence with which it holds.
        threshold: Answers with a confidence above it are kept; infinite if none can be.
        kept: The number of examples above it.
        agreement: The share of the kept answers that are the teacher's; NaN if none is kept.
        bound: The least rate of agreement that is compatible with them, at ``level``.
        share_below: The share of examples that should go to the teacher.
    """

    rate: float
    level: float
    threshold: float
    kept: int
    agreement: float
    bound: float
    share_below: float


def choose_threshold(
    confidence: Float[np.ndarray, " examples"],
    agrees: Bool[np.ndarray, " examples"],
    *,
    rate: float,
    level: float = 0.95,
    candidates: int = 20,
) -> Selection:
    r"""The lowest threshold above which a student agrees with its teacher often enough.

    Candidates are the thresholds that keep 1/20, 2/20, ... of the examples. Given the value of a
    threshold, the examples above it are independent draws of the inputs above it, so the number of
    agreements among ``n`` of them is binomial. A candidate passes if

    .. math:: P(X \ge x \mid n, \mathrm{rate}) \le (1 - \mathrm{level}) / \mathrm{candidates}

    which is the exact bound of Clopper and Pearson, divided by the number of candidates so that it
    holds for the one that is chosen. Of those that pass, the one that keeps the most is chosen.

    Args:
        confidence: The student's confidence in its answer for each example.
        agrees: Whether the answer is the teacher's.
        rate: The rate of agreement to hold above the threshold, in (0, 1).
        level: The confidence with which it is to hold, in (0, 1).
        candidates: Number of thresholds to choose from.

    Returns:
        The choice. If no threshold passes, it keeps nothing.

    Raises:
        UsageError: ``rate`` or ``level`` is not between 0 and 1.

    References:
        Clopper and Pearson, 1934, The use of confidence or fiducial limits.
        Geifman and El-Yaniv, 2017, section 3, https://arxiv.org/abs/1705.08500

    Examples:
        >>> confidence = np.linspace(0, 1, 1000)
        >>> choice = choose_threshold(confidence, confidence > 0.4, rate=0.95)
        >>> round(choice.threshold, 2), choice.share_below
        (0.4, 0.4)
    """
    for name, value in (("rate", rate), ("level", level)):
        if not 0 < value < 1:
            raise UsageError(f"{name} must be between 0 and 1, got {value}.")
    count = len(confidence)
    descending = np.sort(np.float64(confidence))[::-1]
    error = (1 - level) / candidates
    for number in range(candidates, 0, -1):
        place = round(count * number / candidates)
        threshold = -math.inf if place >= count else float(descending[place])
        above = confidence > threshold
        n, x = int(above.sum()), int(agrees[above].sum())
        if x and _chance_of_at_least(x, n, rate) <= error:
            bound = _least_rate(x, n, error)
            return Selection(rate, level, max(threshold, 0.0), n, x / n, bound, 1 - n / count)
    return Selection(rate, level, math.inf, 0, math.nan, 0.0, 1.0)


def _chance_of_at_least(successes: int, trials: int, rate: float) -> float:
    """The probability that ``trials`` trials have at least ``successes`` successes.

    Examples:
        >>> round(_chance_of_at_least(2, 3, 0.5), 12)
        0.5
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    counts = np.arange(successes, trials + 1)
    choices = log_factorial[trials] - log_factorial[counts] - log_factorial[trials - counts]
    logs = choices + counts * math.log(rate) + (trials - counts) * math.log1p(-rate)
    return float(np.exp(logs).sum())


def _least_rate(successes: int, trials: int, error: float) -> float:
    """The rate at which :func:`_chance_of_at_least` is ``error``."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _chance_of_at_least(successes, trials, middle) <= error:
            low = middle
        else:
            high = middle
    return low
