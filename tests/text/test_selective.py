"""The threshold of selective prediction: exact bounds, and what they promise on planted data."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxbrewer import UsageError
from jaxbrewer.text.selective import choose_threshold

GRID = np.linspace(0.3, 1, 7001)


def chance_of_agreement(confidence):
    return 0.6 + 0.4 * ((confidence - 0.3) / 0.7) ** 0.5


def true_agreement(threshold):
    """Over inputs whose confidence is uniform in [0.3, 1], of those above a threshold."""
    return chance_of_agreement(GRID[threshold < GRID]).mean()


def sample(draw, count):
    confidence = draw.uniform(0.3, 1, count)
    return confidence, draw.random(count) < chance_of_agreement(confidence)


@pytest.mark.slow
def test_the_rate_holds_above_the_threshold_in_95_percent_of_samples():
    draw, holds, kept = np.random.default_rng(0), [], []
    for _ in range(1000):
        choice = choose_threshold(*sample(draw, 1000), rate=0.9)
        holds.append(not choice.kept or true_agreement(choice.threshold) >= 0.9)
        kept.append(choice.kept)
    assert np.mean(holds) >= 0.95
    assert np.mean(np.array(kept) > 100) > 0.5  # it is not by keeping nothing


def test_the_choice_approaches_the_best_threshold():
    best = GRID[np.argmax([true_agreement(t) >= 0.9 for t in GRID[:-1]])]
    choice = choose_threshold(*sample(np.random.default_rng(1), 100_000), rate=0.9)
    assert best <= choice.threshold < best + 0.7 / 20 + 0.02
    assert choice.agreement >= choice.bound >= 0.9
    assert choice.share_below == pytest.approx((choice.threshold - 0.3) / 0.7, abs=0.01)


def test_the_bound_is_that_of_clopper_and_pearson():
    confidence, agrees = sample(np.random.default_rng(2), 400)
    choice = choose_threshold(confidence, agrees, rate=0.85, level=0.9, candidates=5)
    above = confidence > choice.threshold
    exact = binomtest(int(agrees[above].sum()), int(above.sum()), alternative="greater")
    assert choice.bound == pytest.approx(exact.proportion_ci(1 - 0.1 / 5).low)
    assert choice.kept == above.sum()


def test_a_student_that_always_agrees_needs_no_teacher():
    choice = choose_threshold(np.linspace(0.3, 1, 200), np.ones(200, bool), rate=0.95)
    assert (choice.threshold, choice.kept, choice.share_below) == (0.0, 200, 0.0)


def test_everything_goes_to_the_teacher_if_nothing_can_be_shown():
    for count, agrees in ((30, True), (1000, False)):  # too few, or never
        choice = choose_threshold(np.linspace(0, 1, count), np.full(count, agrees), rate=0.95)
        assert (choice.threshold, choice.kept, choice.share_below) == (math.inf, 0, 1.0)
        assert math.isnan(choice.agreement)


def test_equal_confidences_stay_together():
    confidence = np.repeat([0.9, 0.5], [500, 500])
    choice = choose_threshold(confidence, confidence > 0.6, rate=0.95)
    assert (choice.threshold, choice.kept) == (0.5, 500)


@pytest.mark.parametrize("rate", [0, 1, -1, math.nan])
def test_a_rate_outside_of_0_and_1_is_refused(rate):
    with pytest.raises(UsageError, match="rate must be between 0 and 1"):
        choose_threshold(np.ones(2), np.ones(2, bool), rate=rate)
