"""What a study concludes, on planted cases whose answer is known."""

import numpy as np
import pytest

from jaxbrewer.study.analysis import compare_arms
from jaxbrewer.text.tasks.measure import means

EXAMPLES = 400


def runs(draw, accuracies):
    """The measures of an arm: one run per accuracy, right on a random part of the examples."""
    return [means(accuracy=(draw.random(EXAMPLES) < share).astype(float)) for share in accuracies]


def compared(arms, teacher, **options):
    settings = {"main_metric": "accuracy", "larger_is_better": True, "resamplings": 400}
    baselines = dict.fromkeys(arms, "labels")
    return compare_arms(arms, teacher, baselines=baselines, **{**settings, **options})


def test_an_arm_that_is_the_baseline_again_shows_no_difference():
    labels = runs(np.random.default_rng(0), [0.7, 0.7, 0.7])
    [teacher] = runs(np.random.default_rng(1), [0.9])
    found = compared({"labels": labels, "distilled": labels}, teacher)["distilled"]
    assert found["verdict"] == "no difference"
    assert found["differences"]["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["p_value"] == 1.0
    assert found["gap_closed"]["value"] == 0.0


@pytest.mark.slow
def test_where_distillation_cannot_help_a_gain_is_reported_as_rarely_as_the_level_says():
    draw, gains = np.random.default_rng(0), 0
    for _ in range(60):
        arms = {name: runs(draw, [0.8, 0.8, 0.8]) for name in ("labels", "distilled")}
        found = compared(arms, runs(draw, [0.8])[0], resamplings=200)
        gains += found["distilled"]["verdict"] != "no difference"
    assert gains <= 8  # 3 of 60 on average; more than 8 with a probability below 0.01


def test_a_planted_gain_is_found_and_its_share_of_the_gap_is_in_the_interval():
    draw = np.random.default_rng(0)
    arms = {"labels": runs(draw, [0.6] * 3), "distilled": runs(draw, [0.75] * 3)}
    [teacher] = runs(draw, [0.9])
    found = compared(arms, teacher)["distilled"]
    assert found["verdict"] == "gain"
    assert found["p_value"] < 0.01
    assert found["gap_closed"]["low"] < 0.5 < found["gap_closed"]["high"]


def test_a_metric_that_should_be_small_turns_the_verdict():
    draw = np.random.default_rng(0)
    arms = {"labels": runs(draw, [0.6] * 3), "distilled": runs(draw, [0.75] * 3)}
    found = compared(arms, runs(draw, [0.9])[0], larger_is_better=False)
    assert found["distilled"]["verdict"] == "loss"


def test_the_numbers_are_those_of_numpy():
    draw = np.random.default_rng(0)
    arms = {"labels": runs(draw, [0.6] * 3), "distilled": runs(draw, [0.7] * 3)}
    found = compared(arms, runs(draw, [0.9])[0])["distilled"]
    shares = [measure.statistics["accuracy"].mean() for measure in arms["distilled"]]
    assert found["metrics"]["accuracy"] == pytest.approx(np.mean(shares))
    assert found["deviations"]["accuracy"] == pytest.approx(np.std(shares, ddof=1))
    of_labels = np.mean([measure.statistics["accuracy"].mean() for measure in arms["labels"]])
    assert found["differences"]["accuracy"]["value"] == pytest.approx(np.mean(shares) - of_labels)


def test_the_spread_of_seeds_widens_the_interval():
    rng = np.random.default_rng(0)
    labels = runs(rng, [0.7] * 3)
    [teacher] = runs(rng, [0.9])
    widths = []
    for shares in ([0.75] * 3, [0.5, 0.75, 1.0]):
        arms = {"labels": labels, "distilled": runs(np.random.default_rng(5), shares)}
        difference = compared(arms, teacher)["distilled"]["differences"]["accuracy"]
        widths.append(difference["high"] - difference["low"])
    assert widths[1] > 1.5 * widths[0]


def test_a_teacher_that_is_no_better_than_labels_alone_leaves_no_gap_to_close():
    draw = np.random.default_rng(0)
    labels = runs(draw, [0.7])
    found = compared({"labels": labels, "distilled": runs(draw, [0.7])}, labels[0])
    assert found["distilled"]["gap_closed"] == {"value": None, "low": None, "high": None}
