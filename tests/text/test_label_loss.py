"""Class weights and label smoothing, against a float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.losses import add_means
from jaxbrewer.text.read import Examples
from jaxbrewer.text.tagged import TaggedTexts
from jaxbrewer.text.tasks import Head, task_of
from jaxbrewer.text.tasks.label_loss import LabelLoss, make_label_loss

RNG = np.random.default_rng(0)
LABELS = np.int32([0, 2, 2, -100, 1, 2])


def by_hand(logits, labels, weights, smoothing):
    """The mean in float64, one position at a time."""
    total = count = 0.0
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.ravel(), strict=True):
        if label < 0:
            continue
        log_q = np.float64(row) - np.log(np.exp(np.float64(row)).sum())
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        total += weights[label] * -(target * log_q).sum()
        count += weights[label]
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.1)])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_the_loss_is_the_weighted_mean_over_labels(shape, weights, smoothing):
    logits = RNG.normal(size=(*shape, 3)).astype(np.float32)
    labels = LABELS.reshape(shape)
    loss = jax.jit(LabelLoss(weights, smoothing))(logits, labels)
    expected = by_hand(logits, labels, weights or (1, 1, 1), smoothing)
    np.testing.assert_allclose(loss.value(), expected, rtol=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_the_whole():
    logits = RNG.normal(size=(6, 3)).astype(np.float32)
    loss = LabelLoss((0.5, 2.0, 0.1), 0.2)
    parts = [loss(logits[part], LABELS[part]) for part in (slice(0, 2), slice(2, 6))]
    whole = loss(logits, LABELS)
    np.testing.assert_allclose(add_means(*parts).value(), whole.value(), rtol=1e-6)
    nothing = loss(logits[3:4], LABELS[3:4])
    assert (float(nothing.total), float(nothing.count)) == (0, 0)


@pytest.mark.slow
def test_padding_has_no_gradient():
    logits = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32).at[3].set(jnp.nan)
    gradient = jax.grad(lambda x: LabelLoss((1.0, 2.0, 3.0), 0.1)(x, LABELS).value())(logits)
    assert np.isfinite(gradient).all()
    assert not gradient[3].any()


def test_balanced_weights_give_each_class_the_same_sum():
    data = DataConfig(class_weights="balanced")
    weights = make_label_loss(data, ("a", "b", "c"), LABELS).weights
    counts = np.array([1, 1, 3])
    np.testing.assert_allclose(weights * counts, 5 / 3)
    assert make_label_loss(data, ("a", "b"), np.int32([0, 0])).weights == (1.0, 1.0)


@pytest.mark.slow
def test_a_task_learns_with_the_weights_of_its_training_examples():
    examples = Examples(["x"] * 6, None, LABELS, ("a", "b", "c"))
    data = DataConfig(class_weights={"b": 4}, label_smoothing=0.1)
    task = task_of(data)
    trained = task.for_training(examples, Head(examples.label_names))
    assert trained.label_loss == LabelLoss((1.0, 4.0, 1.0), 0.1)
    assert task.label_loss == LabelLoss()
    logits = RNG.normal(size=(6, 3)).astype(np.float32)
    batch = {"labels": LABELS, "attention_mask": np.ones((6, 2), np.int32)}
    loss = trained.adaptor(batch, {"logits": jnp.asarray(logits)})["losses"]
    np.testing.assert_allclose(loss.value(), by_hand(logits, LABELS, (1, 4, 1), 0.1), rtol=1e-5)


def test_words_are_counted_by_their_tags():
    examples = TaggedTexts([["x"] * 3, ["y"]], [LABELS[1:4], LABELS[4:5]], ("a", "b", "c"))
    task = task_of(DataConfig(task="token-classification", class_weights="balanced"))
    assert task.for_training(examples, Head(examples.label_names)).label_loss.weights == (
        1.0, 1.5, 0.75,
    )  # fmt: skip


def test_settings_that_do_not_fit_are_refused():
    examples = Examples(["x"], None, np.float32([1.0]))
    with pytest.raises(UsageError, match="data.class_weights needs labels that are single classes"):
        task_of(DataConfig(task="regression", class_weights="balanced")).for_training(
            examples, Head()
        )
    with pytest.raises(UsageError, match="'bb' is no class: did you mean 'b'"):
        make_label_loss(DataConfig(class_weights={"bb": 1}), ("a", "b"), LABELS)
    for field, value in (
        ("class_weights", "balance"), ("class_weights", {"a": 0}), ("class_weights", {"a": "b"}),
        ("class_weights", 3), ("class_weights", {}), ("label_smoothing", 1),
        ("label_smoothing", -0.1), ("label_smoothing", float("nan")),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"DataConfig.{field} must be"):
            DataConfig(**{field: value})
