"""Metrics as functions of statistics of each example, and their bootstrap intervals."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Statistics = Mapping[str, np.ndarray]
"""Arrays ``[examples, ...]`` by name."""

CALIBRATION_BINS = 15
"""Number of bins of :func:`calibration_error`."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """Metrics of some examples, and what they are computed from.

    Attributes:
        statistics: What the metrics need of each example, arrays ``[examples, ...]`` by name:
            labels and predictions, errors, or sums over the tokens of the example.
        metrics_of: Computes the metrics, the main one first, from the statistics of any selection
            of examples, repeated ones included.

    Examples:
        >>> measure = Measure(
        ...     {"nats": np.array([3.0, 1.0]), "tokens": np.array([4, 4])},
        ...     lambda sums: {"loss": sums["nats"].sum() / sums["tokens"].sum()},
        ... )
        >>> measure.metrics()
        {'loss': 0.5}
        >>> measure.metrics(np.array([0, 0]))
        {'loss': 0.75}
    """

    statistics: Statistics
    metrics_of: Callable[[Statistics], Mapping[str, Any]]

    def __len__(self) -> int:
        return len(next(iter(self.statistics.values())))

    def metrics(self, rows: Int[np.ndarray, " rows"] | None = None) -> dict[str, float]:
        """The metrics of all examples, or of those in ``rows``, which may repeat.

        A metric that is not defined, such as a ratio of zeros, is NaN.
        """
        chosen = self.statistics
        if rows is not None:
            chosen = {name: values[rows] for name, values in chosen.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: float(value) for name, value in self.metrics_of(chosen).items()}


def means(**values: Float[np.ndarray, " examples"]) -> Measure:
    """The measure whose metrics are the means of ``values`` over the examples.

    Examples:
        >>> means(error=np.array([0.5, 1.5])).metrics()
        {'error': 1.0}
    """
    return Measure(values, lambda chosen: {name: array.mean() for name, array in chosen.items()})


def bootstrap(
    measures: Sequence[Measure], *, resamplings: int = 1000, seed: int = 0
) -> list[dict[str, Float[np.ndarray, " resamplings"]]]:
    """Computes the metrics of random samples of the examples, drawn with replacement.

    A sample has as many examples as the data. All measures see the same samples, so differences
    between their metrics are paired.

    Args:
        measures: Measures of the same examples, one for each model.
        resamplings: Number of samples.
        seed: Seed of the samples.

    Returns:
        For each measure, the values of its metrics by name.

    Examples:
        >>> one = means(error=np.array([0.0, 1.0]))
        >>> [samples] = bootstrap([one], resamplings=4)
        >>> samples["error"].shape
        (4,)
    """
    count = len(measures[0])
    if any(len(measure) != count for measure in measures):
        raise ValueError(f"Measures of {[len(measure) for measure in measures]} examples.")
    draw = np.random.default_rng(seed)
    found: list[list[dict[str, float]]] = [[] for _ in measures]
    for _ in range(resamplings):
        rows = draw.integers(0, count, count)
        for measure, samples in zip(measures, found, strict=True):
            samples.append(measure.metrics(rows))
    return [
        {name: np.array([sample[name] for sample in samples]) for name in samples[0]}
        for samples in found
    ]


def interval(
    estimate: float, samples: Float[np.ndarray, " resamplings"], *, level: float = 0.95
) -> tuple[float, float]:
    r"""The bias-corrected percentile interval of a metric.

    With :math:`z_0 = \Phi^{-1}(\text{share of samples below the estimate})`, its ends are the
    quantiles :math:`\Phi(2 z_0 \pm z_{(1 + level) / 2})` of the samples. The correction matters
    for metrics that resampling shifts, such as a calibration error. For a median-unbiased metric
    the interval is that between the usual percentiles.

    Args:
        estimate: The metric of all examples.
        samples: The metric of each sample; values that are not finite are left out.
        level: The share of intervals that contain the true value.

    Returns:
        Both ends; NaN if no sample is finite.

    References:
        Efron, 1981, Nonparametric standard errors and confidence intervals, section 7.

    Examples:
        >>> low, high = interval(0.5, np.linspace(0, 1, 1001), level=0.9)
        >>> round(low, 4), round(high, 4)
        (0.05, 0.95)
    """
    samples = samples[np.isfinite(samples)]
    if not len(samples) or not np.isfinite(estimate):
        return float("nan"), float("nan")
    normal = statistics.NormalDist()
    below = np.mean(samples < estimate) + np.mean(samples == estimate) / 2
    edge = 1 / (len(samples) + 1)
    shift = 2 * normal.inv_cdf(float(np.clip(below, edge, 1 - edge)))
    reach = normal.inv_cdf((1 + level) / 2)
    low, high = np.quantile(samples, [normal.cdf(shift - reach), normal.cdf(shift + reach)])
    return float(low), float(high)


def calibration_error(
    confidence: Float[np.ndarray, " predictions"],
    is_correct: np.ndarray,
    bins: int = CALIBRATION_BINS,
) -> float:
    r"""The expected calibration error over bins of equal width.

    .. math:: \sum_b \frac{n_b}{n} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Bin ``b`` holds the predictions with a confidence in :math:`(b / bins, (b + 1) / bins]`.

    Args:
        confidence: The probability of each prediction.
        is_correct: Whether it is right, ``[predictions]``.
        bins: Number of bins.

    References:
        Guo et al., 2017, section 2, equation 3, https://arxiv.org/abs/1706.04599

    Examples:
        >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
        0.4
    """
    mean, share, count = calibration_bins(confidence, is_correct, bins)
    return float(np.abs(count * (share - mean)).sum() / max(len(confidence), 1))


def calibration_bins(
    confidence: Float[np.ndarray, " predictions"],
    is_correct: np.ndarray,
    bins: int = CALIBRATION_BINS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and number of predictions in each bin; 0 in empty bins.

    Examples:
        >>> mean, share, count = calibration_bins(np.array([0.9, 0.8]), np.array([1, 0]), bins=2)
        >>> count.tolist(), share.tolist()
        ([0, 2], [0.0, 0.5])
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, np.float64(x), minlength=bins) for x in (confidence, is_correct))
    mean, share = (total / np.maximum(count, 1) for total in sums)
    return mean, share, count
