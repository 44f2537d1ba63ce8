"""Compares arms over seeds: differences from labels alone and the gap closed, with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ..text.gain import gap_closed, verdict
from ..text.tasks.measure import Measure, bootstrap
from .results import Comparison, Estimate

Samples = Mapping[str, Float[np.ndarray, " resamplings"]]


def compare_arms(
    arms: Mapping[str, Sequence[Measure]],
    teacher: Measure,
    *,
    baselines: Mapping[str, str],
    main_metric: str,
    larger_is_better: bool,
    resamplings: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compares each arm with its baseline by a paired bootstrap over examples and seeds.

    A sample draws test examples and training seeds with replacement, the same for all arms. So the
    intervals hold both sources of chance; few seeds make them too narrow, and one seed leaves only
    the examples.

    Args:
        arms: The measures of each arm, one per seed, on the same examples.
        teacher: The teacher's measure on these examples.
        baselines: The arm with which each arm is compared.
        main_metric: The metric that decides.
        larger_is_better: Its direction.
        resamplings: Number of samples.
        level: The level of the intervals.
        seed: Seed of the samples.

    References:
        Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    names = [(arm, number) for arm, measures in arms.items() for number in range(len(measures))]
    flat = [arms[arm][number] for arm, number in names]
    *drawn, of_teacher = bootstrap([*flat, teacher], resamplings=resamplings, seed=seed)
    by_run = dict(zip(names, drawn, strict=True))
    points = {name: measure.metrics() for name, measure in zip(names, flat, strict=True)}
    draw = np.random.default_rng([seed, 1])
    seeds = min(len(measures) for measures in arms.values())
    chosen = draw.integers(0, seeds, (resamplings, seeds))

    samples: dict[str, Samples] = {}
    means: dict[str, dict[str, float]] = {}
    deviations: dict[str, dict[str, float | None]] = {}
    for arm, measures in arms.items():
        metrics = points[arm, 0]
        stacked = {
            metric: np.array([by_run[arm, number][metric] for number in range(len(measures))])
            for metric in metrics
        }
        samples[arm] = {
            metric: np.take_along_axis(values, chosen.T % len(measures), axis=0).mean(axis=0)
            for metric, values in stacked.items()
        }
        values = {
            metric: [points[arm, n][metric] for n in range(len(measures))] for metric in metrics
        }
        means[arm] = {metric: float(np.mean(found)) for metric, found in values.items()}
        deviations[arm] = {
            metric: float(np.std(found, ddof=1)) if len(found) > 1 else None
            for metric, found in values.items()
        }

    best = teacher.metrics()[main_metric]
    compared: dict[str, Comparison] = {}
    for arm in arms:
        base = baselines[arm]
        change = {metric: samples[arm][metric] - samples[base][metric] for metric in samples[arm]}
        differences = {
            metric: _estimate(means[arm][metric] - means[base][metric], values, level)
            for metric, values in change.items()
        }
        main = change[main_metric]
        share = gap_closed(means[arm][main_metric], means[base][main_metric], best)
        shares = gap_closed(
            samples[arm][main_metric], samples[base][main_metric], of_teacher[main_metric]
        )
        of_main = differences[main_metric]
        compared[arm] = {
            "metrics": means[arm],
            "deviations": deviations[arm],
            "differences": differences,
            "p_value": _p_value(main),
            "gap_closed": _estimate(float(share), shares, level),
            "verdict": verdict(
                [of_main["low"], of_main["high"]], larger_is_better=larger_is_better
            ),
        }
    return compared


def _estimate(value: float, samples: Float[np.ndarray, " resamplings"], level: float) -> Estimate:
    """The value, and the percentiles of the samples that are finite."""
    finite = samples[np.isfinite(samples)]
    if not np.isfinite(value) or not len(finite):
        return {"value": None, "low": None, "high": None}
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _p_value(differences: Float[np.ndarray, " resamplings"]) -> float:
    """Twice the smaller share of samples on one side of 0, at most 1 and above 0.

    Examples:
        >>> _p_value(np.ones(999))
        0.002
        >>> _p_value(np.zeros(9))
        1.0
    """
    count = len(differences) + 1
    below = (np.sum(differences <= 0) + 1) / count
    above = (np.sum(differences >= 0) + 1) / count
    return float(min(1.0, 2 * min(below, above)))
