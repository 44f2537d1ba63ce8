"""TextBrewer's faults in losses, masks and shifts (B.1, B.3, B.8): none of them occurs here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer import losses
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.objective.logit_masks import probability_shift
from jaxbrewer.registry import MATCH_LOSS_MAP

RNG = np.random.default_rng(0)
BATCH, LENGTH, CLASSES, WIDTH = 3, 4, 5, 6
LOGITS_S, LOGITS_T = RNG.normal(size=(2, BATCH, LENGTH, CLASSES)).astype(np.float32)
STATES_S, STATES_T = RNG.normal(size=(2, BATCH, LENGTH, WIDTH)).astype(np.float32)
MASK = (np.arange(LENGTH) < np.array([[4], [2], [3]])).astype(np.int32)
HIDDEN = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}


def distil(student, teacher, **fields):
    objective = jb.make_objective(jb.DistillationConfig(**fields))
    compare = jax.jit(lambda S, T: objective(collect(S, "student"), collect(T, "teacher"), {}))
    return compare(student, teacher)


def kd(student, teacher, **fields):
    return distil(student, teacher, **fields)[1]["unweighted_kd_loss"]


def test_b1_a_mask_of_ones_does_not_change_nst():
    pairs = [STATES_S, STATES_S], [STATES_T, STATES_T]
    masked = losses.mmd_loss(*pairs, np.ones_like(MASK))
    np.testing.assert_allclose(masked, losses.mmd_loss(*pairs), rtol=1e-6)


@pytest.mark.slow
def test_b10_probability_shift_works_under_a_mask():
    labels = RNG.integers(0, CLASSES, (BATCH, LENGTH))
    student = {"logits": LOGITS_S, "logits_mask": MASK, "labels": labels}
    actual = kd(
        student, {"logits": LOGITS_T, "logits_mask": MASK}, probability_shift=True, temperature=1
    )
    rows = MASK != 0
    shifted = probability_shift(LOGITS_T[rows], labels[rows])
    np.testing.assert_allclose(actual, losses.kd_ce_loss(LOGITS_S[rows], shifted), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [-1, -100])
def test_b11_ignored_labels_of_rank_2_shift_nothing(ignored):
    labels = np.array([ignored, 0, 4])
    shifted = probability_shift(LOGITS_T[:, 0], labels)
    np.testing.assert_array_equal(shifted[0], LOGITS_T[0, 0])
    np.testing.assert_array_equal(np.argmax(shifted[1:], -1), labels[1:])


def test_b12_the_users_teacher_outputs_are_not_changed():
    cached = LOGITS_T.copy()
    labels = np.argmin(LOGITS_T, -1)
    kd({"logits": LOGITS_S, "labels": labels}, {"logits": cached}, probability_shift=True)
    np.testing.assert_array_equal(cached, LOGITS_T)


def test_b24_different_numbers_of_heads_are_refused():
    with pytest.raises(jb.UsageError, match="returned 2 'logits', the teacher's 1"):
        kd({"logits": [LOGITS_S, LOGITS_S]}, {"logits": LOGITS_T})


def test_b39_logits_are_optional_and_an_empty_list_is_refused():
    _, metrics = distil(
        {"hidden": [STATES_S]}, {"hidden": [STATES_T]}, intermediate_matches=[HIDDEN]
    )
    assert "unweighted_kd_loss" not in metrics
    with pytest.raises(jb.UsageError, match="returned no 'logits'"):
        kd({"logits": []}, {"logits": LOGITS_T})
    assert distil({"logits": LOGITS_S, "losses": []}, {"logits": LOGITS_T})[0] > 0


def test_b40_a_layer_out_of_range_names_its_match():
    answers = {"hidden": [STATES_S]}, {"hidden": [STATES_T]}
    with pytest.raises(jb.UsageError, match=r"intermediate_matches\[1\].*layer_S=9 .*1 layers"):
        distil(*answers, intermediate_matches=[HIDDEN, {**HIDDEN, "layer_S": 9}])


@pytest.mark.slow
def test_b43_half_precision_logits_give_a_float32_loss():
    for half in (jnp.float16, jnp.bfloat16):
        assert losses.kd_ce_loss(LOGITS_S.astype(half), LOGITS_T.astype(half)).dtype == jnp.float32


def test_b53_a_higher_temperature_weakens_ce_as_documented():
    """Kept for the reference values; other losses have the factor."""

    def pull(temperature):
        gradient = jax.jit(jax.grad(losses.kd_ce_loss))(LOGITS_S, LOGITS_T, temperature)
        return np.linalg.norm(gradient)

    assert pull(8.0) / pull(4.0) == pytest.approx(1 / 4, rel=0.1)


def test_b54_the_minimum_of_ce_is_the_teachers_entropy():
    p = np.asarray(jax.nn.softmax(LOGITS_T))
    floor = losses.kd_ce_loss(LOGITS_T, LOGITS_T)
    np.testing.assert_allclose(floor, -np.mean(np.sum(p * np.log(p), -1)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.att_ce_loss, losses.att_ce_mean_loss])
def test_b55_more_padding_does_not_change_the_attention_loss(loss):
    """Scores of -10000, which models give to padded keys, leave the softmax unchanged."""
    scores = RNG.normal(size=(2, BATCH, 2, LENGTH, LENGTH)).astype(np.float32)

    def padded(x, length):
        wider = np.zeros((BATCH, 2, length, length), np.float32)
        wider[..., LENGTH:] = -10000.0
        wider[:, :, :LENGTH, :LENGTH] = x
        return wider

    values = [
        jax.jit(loss)(
            *(padded(x, length) for x in scores),
            jnp.arange(length)[None] < jnp.full((BATCH, 1), LENGTH),
        )
        for length in (LENGTH, 16)
    ]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)


ONE_LAYER = (
    "attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean", "hidden_mse", "cos",
    "pkd",
)  # fmt: skip
TWO_LAYERS = ("fsp", "gram", "mmd", "nst")


@pytest.mark.parametrize("name", ONE_LAYER + TWO_LAYERS)
def test_b56_an_empty_mask_and_zero_vectors_give_zero_loss_and_gradient(name):
    loss = jax.jit(jax.value_and_grad(MATCH_LOSS_MAP[name]))
    x = np.zeros((BATCH, 2, LENGTH, LENGTH), np.float32) if "attention" in name else 0 * STATES_S
    argument = [x, x] if name in TWO_LAYERS else x
    value, gradient = loss(argument, argument, 0 * MASK)
    assert value == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))
    value, gradient = loss(argument, argument, MASK)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


def test_b57_transposed_states_give_the_same_loss():
    turned = jnp.swapaxes(jnp.swapaxes(jnp.asarray(STATES_S), 0, 1).copy(), 0, 1)
    np.testing.assert_array_equal(
        losses.cos_loss(turned, STATES_T), losses.cos_loss(STATES_S, STATES_T)
    )


def test_b58_the_teachers_mask_is_used_and_unequal_lengths_are_refused():
    student, teacher = {"hidden": [STATES_S]}, {"hidden": [STATES_T], "inputs_mask": MASK}
    total, _ = distil(student, teacher, intermediate_matches=[HIDDEN])
    np.testing.assert_allclose(total, losses.hid_mse_loss(STATES_S, STATES_T, MASK), rtol=1e-6)
    longer = {"hidden": [np.zeros((BATCH, LENGTH + 2, WIDTH), np.float32)]}
    with pytest.raises(jb.UsageError, match=r"intermediate_matches\[0\].*differ in length"):
        distil(student, longer, intermediate_matches=[HIDDEN])


def test_b59_one_mask_serves_two_heads():
    answers = ({"logits": [x, 2 * x], "logits_mask": MASK} for x in (LOGITS_S, LOGITS_T))
    twice = ({"logits": [x, 2 * x], "logits_mask": [MASK, MASK]} for x in (LOGITS_S, LOGITS_T))
    np.testing.assert_allclose(kd(*answers), kd(*twice), rtol=1e-6)


@pytest.mark.slow
def test_further_masked_attention_of_one_head_equals_the_four_axis_form():
    """TextBrewer is silently wrong where the batch size equals the length."""
    S, T = RNG.normal(size=(2, LENGTH, LENGTH, LENGTH)).astype(np.float32)
    mask = np.arange(LENGTH) < np.array([[4], [2], [3], [1]])
    for loss in (losses.att_mse_loss, losses.att_ce_loss):
        np.testing.assert_allclose(loss(S, T, mask), loss(S[:, None], T[:, None], mask), rtol=1e-6)


@pytest.mark.slow
def test_further_a_temperature_per_example_applies_to_all_its_positions():
    temperatures = jnp.array([1.0, 2.0, 4.0])
    S, T = LOGITS_S[:, :3], LOGITS_T[:, :3]  # as many positions as examples
    by_position = jnp.broadcast_to(temperatures[:, None], (BATCH, 3))
    np.testing.assert_allclose(
        losses.kd_ce_loss(S, T, temperatures), losses.kd_ce_loss(S, T, by_position), rtol=1e-6
    )


@pytest.mark.slow
def test_further_classes_ruled_out_by_both_keep_loss_and_gradient_finite():
    S, T = LOGITS_S.copy(), LOGITS_T.copy()
    S[..., 0] = T[..., 0] = -np.inf
    for loss in (losses.kd_ce_loss, losses.kd_mse_loss):
        value, gradient = jax.value_and_grad(loss)(S, T)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_b60_bce_is_the_loss_for_several_labels_per_example():
    p, q = (1 / (1 + np.exp(-z / 2)) for z in (LOGITS_T, LOGITS_S))
    expected = -4 * np.mean(p * np.log(q) + (1 - p) * np.log(1 - q))
    actual = kd({"logits": LOGITS_S}, {"logits": LOGITS_T}, kd_loss_type="bce", temperature=2)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
