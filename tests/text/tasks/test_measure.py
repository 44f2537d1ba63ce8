"""Metrics against scikit-learn and plain loops; bootstrap intervals on planted data."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss

from jaxbrewer.text.tasks.classification import compare_classes, measure_classes
from jaxbrewer.text.tasks.measure import Measure, bootstrap, calibration_error, interval, means

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(300, 5)).astype(np.float32) * 2
LABELS = RNG.choice(4, 300).astype(np.int32)  # the last class never occurs


@pytest.mark.parametrize("rows", [None, RNG.integers(0, 300, 300), np.arange(7)])
def test_metrics_of_classes_equal_those_of_scikit_learn(rows):
    measure = measure_classes(LOGITS, LABELS)
    chosen = np.arange(300) if rows is None else rows
    labels, logits = LABELS[chosen], LOGITS[chosen].astype(np.float64)
    predicted = logits.argmax(-1)
    found = measure.metrics(rows)
    assert found.pop("calibration_error") >= 0
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro"),
            "loss": log_loss(labels, softmax(logits, -1), labels=range(5)),
        },
        rel=1e-6,
    )


def test_calibration_error_is_the_weighted_gap_of_fifteen_bins():
    confidence, is_correct = RNG.uniform(0.2, 1, 500), RNG.random(500) < 0.7
    confidence[:3] = 1.0, 1 / 15, 7 / 15  # the upper edge belongs to a bin
    total = 0.0
    for number in range(15):
        rows = [r for r in range(500) if number / 15 < confidence[r] <= (number + 1) / 15]
        if rows:
            gap = np.mean(is_correct[rows]) - np.mean(confidence[rows])
            total += len(rows) / 500 * abs(gap)
    assert calibration_error(confidence, is_correct) == pytest.approx(total)


def test_agreement_is_the_share_of_equal_classes_and_the_mean_divergence():
    teacher = RNG.normal(size=LOGITS.shape) * 3
    found = compare_classes(LOGITS, teacher).metrics()
    p, q = softmax(teacher, -1), softmax(LOGITS.astype(np.float64), -1)
    assert found["kl_divergence"] == pytest.approx(rel_entr(p, q).sum(-1).mean(), rel=1e-6)
    assert found["top1_agreement"] == np.mean(teacher.argmax(-1) == LOGITS.argmax(-1))


def test_a_class_that_the_teacher_rules_out_keeps_the_divergence_finite():
    teacher = np.array([[0.0, 1.0, -np.inf]])
    student = np.array([[0.5, 0.5, 3.0]])
    expected = np.sum(softmax([0.0, 1.0]) * (log_softmax([0.0, 1.0]) - log_softmax(student[0])[:2]))
    assert compare_classes(student, teacher).metrics()["kl_divergence"] == pytest.approx(expected)


def test_samples_depend_on_the_seed_alone():
    measure = measure_classes(LOGITS, LABELS)
    first, again, other = (
        bootstrap([measure], resamplings=20, seed=seed)[0]["loss"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_of_several_models_are_paired():
    better = measure_classes(LOGITS + 4 * np.eye(5)[LABELS], LABELS)
    measure = measure_classes(LOGITS, LABELS)
    samples = bootstrap([measure, measure, better], resamplings=200)
    np.testing.assert_array_equal(samples[0]["accuracy"], samples[1]["accuracy"])
    paired = samples[2]["loss"] - samples[0]["loss"]
    unpaired = samples[2]["loss"] - samples[0]["loss"][::-1]
    assert paired.std() < 0.95 * unpaired.std()


def test_the_spread_of_samples_is_the_standard_error():
    values = RNG.normal(size=400)
    [samples] = bootstrap([means(error=values)], resamplings=2000)
    assert samples["error"].std() == pytest.approx(values.std() / 20, rel=0.06)


def test_a_ratio_of_sums_is_resampled_by_example():
    """As perplexity: examples count by their tokens."""
    tokens = RNG.integers(1, 50, 200)
    nats = tokens * RNG.uniform(1, 3, 200)
    measure = Measure(
        {"nats": nats, "tokens": tokens},
        lambda of: {"perplexity": np.exp(of["nats"].sum() / of["tokens"].sum())},
    )
    [samples] = bootstrap([measure], resamplings=300, seed=3)
    draw = np.random.default_rng(3)
    for value in samples["perplexity"][:5]:
        rows = draw.integers(0, 200, 200)
        assert value == pytest.approx(math.exp(sum(nats[rows]) / sum(tokens[rows])))
    low, high = interval(measure.metrics()["perplexity"], samples["perplexity"])
    assert low < measure.metrics()["perplexity"] < high


@pytest.mark.slow
def test_intervals_cover_the_truth_at_their_level():
    """Accuracy 0.8 on 150 examples, of which 95 % of the intervals must hold 0.8."""
    draw, covered = np.random.default_rng(1), []
    for trial in range(400):
        measure = means(accuracy=(draw.random(150) < 0.8).astype(float))
        [samples] = bootstrap([measure], resamplings=200, seed=trial)
        low, high = interval(measure.metrics()["accuracy"], samples["accuracy"])
        covered.append(low <= 0.8 <= high)
    assert 0.92 < np.mean(covered) < 0.98  # three standard errors


def test_the_interval_of_a_calibration_error_follows_its_bias():
    """Resampling adds noise to the bins, so nearly every sample lies above the estimate."""
    confidence = np.random.default_rng(2).uniform(0.5, 1, 2000)
    is_correct = np.random.default_rng(3).random(2000) < confidence
    measure = Measure(
        {"confidence": confidence, "is_correct": is_correct},
        lambda of: {"error": calibration_error(of["confidence"], of["is_correct"])},
    )
    [samples] = bootstrap([measure], resamplings=400)
    estimate = measure.metrics()["error"]
    low, high = interval(estimate, samples["error"])
    plain = np.quantile(samples["error"], [0.025, 0.975])
    assert plain.mean() - estimate > 2 * abs((low + high) / 2 - estimate)
    assert low <= estimate <= high


def test_undefined_samples_are_left_out():
    assert interval(0.5, np.array([0.4, np.nan, 0.6, np.inf])) == pytest.approx((0.405, 0.595))
    assert all(map(math.isnan, interval(0.5, np.array([np.nan]))))
    assert all(map(math.isnan, interval(math.nan, np.array([0.5, 0.6]))))
    constant = Measure({"x": np.ones(4)}, lambda of: {"ratio": of["x"].std() / of["x"].std()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [samples] = bootstrap([constant], resamplings=3)
    assert np.isnan(samples["ratio"]).all()


def test_measures_of_different_examples_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        bootstrap([means(x=np.ones(2)), means(x=np.ones(3))])
