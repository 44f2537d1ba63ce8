"""Which mask and which weights each head of logits gets, and that padding never changes a loss."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs
from jaxbrewer.objective.top_k import keep_top_k
from tests.toys import quiet

RNG = np.random.default_rng(0)
BATCH, LENGTH, CLASSES = 3, 6, 4
MASK = np.arange(LENGTH) < np.array([[6], [2], [2]])
TOKENS_S, TOKENS_T = np.float32(RNG.normal(size=(2, BATCH, LENGTH, CLASSES)))
SPANS_S, SPANS_T = np.float32(RNG.normal(size=(2, BATCH, LENGTH)))
WEIGHTS = np.float32(RNG.uniform(size=(BATCH, LENGTH)))
LOSSES = [
    "ce", "mse", "kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd", "bce", "dkd",
    "standardized_kl",
]  # fmt: skip


@functools.cache
def program(kind, settings):
    objective = jb.make_objective(
        jb.DistillationConfig(temperature=2, kd_loss_type=kind, **dict(settings))
    )

    def total(logits, student, teacher):
        return objective(Outputs(logits=logits, **student), Outputs(**teacher), {}, 0)[0]

    return jax.jit(jax.value_and_grad(total))


def loss(student, teacher, kind="ce", **settings):
    """The loss between logits, whose gradient is finite."""
    logits = student["logits"] if isinstance(student["logits"], tuple) else (student["logits"],)
    rest = {key: value for key, value in student.items() if key != "logits"}
    value, gradient = program(kind, tuple(settings.items()))(logits, rest, teacher)
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    return float(value)


def padded(x, mask=MASK, fill=np.nan):
    return jnp.asarray(np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, fill))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
def test_padding_of_spans_is_neither_compared_nor_a_class(kind):
    """The loss of each example alone, cut to its own length, whatever the padding holds."""
    labels = jnp.zeros(BATCH, int)
    sums = np.zeros(2)
    for row, count in enumerate(MASK.sum(1)):
        cut = [jnp.asarray(x[row : row + 1, :count]) for x in (SPANS_S, SPANS_T)]
        weight = count if kind in ("mse", "bce") else 1  # of the mean over classes
        alone = loss({"logits": cut[0], "labels": labels[:1]}, {"logits": cut[1]}, kind)
        sums += alone * weight, weight
    for fill in (np.nan, 1e4):
        student = {"logits": padded(SPANS_S, fill=fill), "logits_mask": MASK, "labels": labels}
        actual = loss(student, {"logits": padded(SPANS_T, fill=fill)}, kind)
        np.testing.assert_allclose(actual, sums[0] / sums[1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["ce", "mse"])
def test_longer_padding_and_empty_examples_change_no_span_loss(kind):
    masks = np.concatenate([MASK, np.zeros((1, LENGTH), bool)])
    wide = np.pad(masks, [(0, 0), (0, 3)])
    expected = loss({"logits": SPANS_S, "logits_mask": MASK}, {"logits": SPANS_T}, kind)
    x_S, x_T = (np.pad(x, [(0, 1), (0, 3)], constant_values=7) for x in (SPANS_S, SPANS_T))
    actual = loss({"logits": x_S}, {"logits": x_T, "logits_mask": wide}, kind)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_span_is_shifted_among_its_own_positions():
    labels, logits_T = jnp.array([0, 1, 3]), padded(SPANS_T, fill=99.0)
    student = {"logits": SPANS_S, "logits_mask": MASK, "labels": labels}
    shifted = np.where(MASK, SPANS_T, -np.inf)
    for row, label in enumerate(labels[:2]):  # the third is at padding, and no class
        largest = shifted[row].argmax()
        shifted[row, [largest, label]] = shifted[row, [label, largest]]
    expected = loss(student, {"logits": jnp.asarray(shifted)})
    actual = loss(student, {"logits": logits_T}, probability_shift=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_mask_of_examples_selects_them(side):
    keep = np.array([1, 0, 1])
    student, teacher = {"logits": SPANS_S}, {"logits": SPANS_T}
    (student if side == "student" else teacher)["logits_mask"] = keep
    expected = loss({"logits": SPANS_S[keep == 1]}, {"logits": SPANS_T[keep == 1]})
    np.testing.assert_allclose(loss(student, teacher), expected, rtol=1e-6)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_token_logits_without_a_mask_of_their_own_take_inputs_mask(side):
    expected = loss({"logits": TOKENS_S, "logits_mask": MASK}, {"logits": TOKENS_T})
    student, teacher = {"logits": padded(TOKENS_S)}, {"logits": padded(TOKENS_T)}
    (student if side == "student" else teacher)["inputs_mask"] = MASK
    assert loss(student, teacher) == expected


def test_logits_mask_comes_before_the_same_adaptors_inputs_mask():
    some, ones = MASK & (np.arange(LENGTH) > 0), np.ones_like(MASK)
    for mask in (some, ones):
        expected = loss({"logits": TOKENS_S, "logits_mask": mask}, {"logits": TOKENS_T})
        both = {"logits": TOKENS_S, "logits_mask": mask, "inputs_mask": MASK}
        assert loss(both, {"logits": TOKENS_T}) == expected
    both = {"logits": TOKENS_T, "inputs_mask": MASK}
    student = {"logits": TOKENS_S, "logits_mask": ones}
    assert loss(student, both) == loss({**student, "logits_mask": MASK}, {"logits": TOKENS_T})


@pytest.mark.parametrize("mask", [MASK[:, :5], np.ones((BATCH, LENGTH + 1))])
def test_an_inputs_mask_of_other_positions_than_the_logits_is_refused(mask):
    student = {"logits": TOKENS_S, "inputs_mask": mask}
    with pytest.raises(jb.UsageError, match=r"does not cover the positions of logits\[0\]"):
        loss(student, {"logits": TOKENS_T})
    ones = np.ones(TOKENS_S.shape[:2])
    expected = loss({"logits": TOKENS_S}, {"logits": TOKENS_T})
    assert loss({**student, "logits_mask": ones}, {"logits": TOKENS_T}) == expected


def test_the_mask_of_token_heads_is_not_that_of_a_head_without_positions():
    """A head for the sentence beside one for the tokens, even with as many classes as tokens."""
    expected = loss({"logits": SPANS_S}, {"logits": SPANS_T})
    expected += loss({"logits": TOKENS_S, "logits_mask": MASK}, {"logits": TOKENS_T})
    heads = {"logits": (SPANS_S, TOKENS_S), "logits_mask": MASK}
    np.testing.assert_allclose(loss(heads, {"logits": (SPANS_T, TOKENS_T)}), expected, rtol=1e-6)
    other = np.ones((BATCH, LENGTH + 1))  # TextBrewer needs one per head
    heads = {"logits": (SPANS_S, TOKENS_S), "logits_mask": (other, MASK)}
    np.testing.assert_allclose(loss(heads, {"logits": (SPANS_T, TOKENS_T)}), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(BATCH, 4), (BATCH, LENGTH, 1), (BATCH, 1)])
def test_a_mask_that_no_head_can_use_is_refused(shape):
    student = {"logits": SPANS_S, "logits_mask": np.ones(shape)}
    with pytest.raises(jb.UsageError, match=r"logits_mask .* does not fit logits\[0\] \(3, 6\)"):
        loss(student, {"logits": SPANS_T})


@pytest.mark.slow
def test_classes_of_a_top_k_cannot_be_selected():
    student = {"logits": SPANS_S, "logits_mask": MASK}
    with pytest.raises(jb.UsageError, match="only the largest are cached"):
        loss(student, {"logits": keep_top_k(SPANS_T, 2, [2.0])})


def test_heads_that_look_like_spans_without_their_mask_warn():
    heads_S, heads_T = (SPANS_S, SPANS_S), (SPANS_T, SPANS_T)
    with pytest.warns(UserWarning, match="scores of positions, as of spans, return 'logits_mask'"):
        loss({"logits": heads_S, "inputs_mask": MASK}, {"logits": heads_T})
    loss({"logits": heads_S, "inputs_mask": MASK, "logits_mask": MASK}, {"logits": heads_T})


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("masked", [True, False])
def test_weights_of_positions_weigh_the_mean(kind, masked):
    """Sum of weight * loss over sum of weights, both of the selected positions."""
    mask = MASK if masked else np.ones_like(MASK)
    labels = jnp.asarray(RNG.integers(0, CLASSES, MASK.shape))
    entries = {"logits": padded(TOKENS_S, mask), "labels": labels, "logits_weights": WEIGHTS}
    actual = loss({**entries, "logits_mask": mask}, {"logits": padded(TOKENS_T, mask)}, kind)
    config = jb.DistillationConfig(temperature=2, kd_loss_type=kind)
    one = jax.jit(
        lambda S, T, label: jb.make_objective(config)(
            Outputs(logits=S[None], labels=label[None]), Outputs(logits=T[None]), {}, 0
        )[0]
    )
    each = [one(TOKENS_S[at], TOKENS_T[at], labels[at]) for at in np.argwhere(mask).tolist()
            for at in [tuple(at)]]  # fmt: skip
    np.testing.assert_allclose(actual, np.average(each, weights=WEIGHTS[mask]), rtol=1e-5)


def test_weights_of_examples_weigh_heads_without_positions():
    weights = np.float32([0.5, 0.0, 2.0])
    each = [
        loss({"logits": s[None]}, {"logits": t[None]})
        for s, t in zip(SPANS_S, SPANS_T, strict=True)
    ]
    actual = loss({"logits": SPANS_S, "logits_weights": weights}, {"logits": SPANS_T})
    np.testing.assert_allclose(actual, np.average(each, weights=weights), rtol=1e-5)


def test_equal_weights_change_nothing_and_weights_of_0_hide_nan():
    student, teacher = {"logits": TOKENS_S, "logits_mask": MASK}, {"logits": TOKENS_T}
    expected = loss(student, teacher)
    half = {**student, "logits_weights": np.full(MASK.shape, np.float16(0.5))}
    np.testing.assert_allclose(loss(half, teacher), expected, rtol=1e-6)
    student = {"logits": padded(TOKENS_S), "logits_weights": np.float32(MASK)}
    np.testing.assert_allclose(loss(student, {"logits": padded(TOKENS_T)}), expected, rtol=1e-6)


def test_the_teachers_weights_count_where_the_student_has_none_and_follow_its_positions():
    own = loss({"logits": TOKENS_S, "logits_weights": WEIGHTS}, {"logits": TOKENS_T})
    teacher = {"logits": TOKENS_T, "logits_weights": WEIGHTS}
    assert loss({"logits": TOKENS_S}, teacher) == own
    other = {**teacher, "logits_weights": 1 - WEIGHTS}
    assert loss({"logits": TOKENS_S, "logits_weights": WEIGHTS}, other) == own
    ahead = [(0, 0), (1, 0)]  # the teacher has a token more in front
    moved = {
        "logits": np.pad(TOKENS_T, [*ahead, (0, 0)]),
        "logits_weights": np.pad(WEIGHTS, ahead, constant_values=9),
        "logits_mask": np.pad(MASK, ahead),
    }
    student = {"logits": TOKENS_S, "logits_mask": MASK}
    expected = loss({**student, "logits_weights": WEIGHTS}, {"logits": TOKENS_T})
    np.testing.assert_allclose(loss(student, moved), expected, rtol=1e-6)


def test_a_temperature_per_position_and_teachers_by_example_go_with_weights():
    weights = np.float32(RNG.uniform(size=(BATCH, LENGTH)))
    student = {"logits": TOKENS_S, "logits_weights": weights}
    scaled = {"logits": TOKENS_S, "logits_weights": 3 * weights}
    for rule in ("none", ("flsw", 1, 2), lambda S, T, base, mask=None: jnp.array([1.0, 2.0, 3.0])):
        config = {"temperature_scheduler": rule}
        value = loss(student, {"logits": TOKENS_T}, **config)
        np.testing.assert_allclose(loss(scaled, {"logits": TOKENS_T}, **config), value, rtol=1e-5)


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, LENGTH, CLASSES), (BATCH, 5)])
def test_mismatched_weights_are_refused(shape):
    student = {"logits": TOKENS_S, "logits_weights": np.ones(shape)}
    with pytest.raises(jb.UsageError, match=r"logits_weights .* do not fit logits\[0\] .* needed"):
        loss(student, {"logits": TOKENS_T})


@pytest.mark.slow
def test_micro_batches_with_weights_give_the_number_of_the_whole_batch():
    def adaptor(batch, outputs):
        return {"logits": outputs, "logits_mask": batch["m"], "logits_weights": batch["w"]}

    batch = {"x": TOKENS_S[:2], "m": MASK[:2], "w": WEIGHTS[:2]}
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(2)]
    losses = []
    for size, batches in ((1, [batch]), (2, parts)):
        models = [(lambda params, x: x @ params, jnp.eye(4) * (i + 1)) for i in range(2)]
        distiller = jb.BasicDistiller(
            quiet(gradient_accumulation_steps=size), jb.DistillationConfig(), *models,
            adaptor, adaptor,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            history = distiller.train(optax.sgd(0.0), batches, num_epochs=1).history
        losses.append(history["total_loss"][0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
