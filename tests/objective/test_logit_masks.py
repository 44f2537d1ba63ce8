import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.objective.logit_masks import pair_selected, probability_shift

RNG = np.random.default_rng(0)
LOGITS = np.float32(RNG.normal(size=(4, 6, 5)))
LABELS = RNG.integers(0, 5, size=(4, 6))
shift = jax.jit(probability_shift)
pair = jax.jit(pair_selected)
jitted = jax.jit(pair_selected, static_argnames="pairing")


def swapped_by_hand(logits, labels):
    out = logits.copy().reshape(-1, logits.shape[-1])
    for row, label in zip(out, labels.reshape(-1), strict=True):
        if 0 <= label < len(row):
            largest = row.argmax()
            row[largest], row[label] = row[label], row[largest]
    return out.reshape(logits.shape)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_shift_swaps_and_rounds_nothing(dtype):
    logits = LOGITS.astype(dtype)
    shifted = shift(logits, LABELS)
    assert shifted.dtype == dtype
    np.testing.assert_array_equal(shifted, swapped_by_hand(logits, LABELS))
    np.testing.assert_array_equal(np.argmax(shifted, -1), LABELS)


@pytest.mark.parametrize("outside", [-1, -100, 5, 10**6])
def test_labels_outside_the_classes_shift_nothing(outside):
    """TextBrewer: -1 swaps with the last class of 2-D logits, -100 raises."""
    labels = np.where(LABELS < 2, outside, LABELS)
    np.testing.assert_array_equal(shift(LOGITS, labels), swapped_by_hand(LOGITS, labels))
    rows = shift(LOGITS[:, 0], labels[:, 0])
    np.testing.assert_array_equal(rows, swapped_by_hand(LOGITS[:, 0], labels[:, 0]))


def test_the_first_of_several_largest_is_swapped():
    shifted = shift(jnp.array([[1.0, 3.0, 3.0, 2.0]]), jnp.array([3]))
    np.testing.assert_array_equal(shifted, [[1, 2, 3, 3]])


def test_a_label_that_the_teacher_rules_out_leaves_its_row_alone():
    logits = jnp.array([[1.0, 3.0, -jnp.inf], [1.0, 3.0, 2.0]])
    shifted = shift(logits, jnp.array([2, 2]))
    np.testing.assert_array_equal(shifted, [[1, 3, -np.inf], [1, 2, 3]])


def test_shift_twice_is_shift_once():
    once = shift(LOGITS, LABELS)
    np.testing.assert_array_equal(shift(once, LABELS), once)


def test_shift_leaves_its_input_and_masked_rows_alone():
    """TextBrewer swaps in place, in the user's own cache."""
    logits, mask = jnp.asarray(LOGITS), np.arange(6) < np.array([[6], [3], [1], [0]])
    masked = shift(logits, LABELS, mask.astype(np.float32))
    np.testing.assert_array_equal(logits, LOGITS)
    expected = np.where(mask[..., None], swapped_by_hand(LOGITS, LABELS), LOGITS)
    np.testing.assert_array_equal(masked, expected)


@pytest.mark.parametrize("labels", [LABELS[:, 0], np.float32(LABELS), LABELS[..., None]])
def test_labels_of_the_wrong_shape_are_refused(labels):
    with pytest.raises(UsageError, match=r"integer labels of the shape \(4, 6\) .*got"):
        probability_shift(jnp.asarray(LOGITS), jnp.asarray(labels))


def test_heads_without_positions_are_not_selected():
    mask = np.int32(LABELS > 0)
    teacher, effective = pair_selected(LOGITS[:, 0], mask, mask)
    assert effective is None
    np.testing.assert_array_equal(teacher, LOGITS[:, 0])


def test_the_same_mask_moves_nothing():
    mask = np.int32(LABELS > 1)
    teacher, effective = pair_selected(LOGITS, mask, mask)
    assert teacher is LOGITS
    assert effective is mask


def test_equal_masks_move_nothing():
    mask = np.int32(LABELS > 1)
    teacher, effective = pair(LOGITS, mask, mask * 0.5)
    np.testing.assert_array_equal(effective, mask != 0)
    np.testing.assert_array_equal(teacher, LOGITS)  # the padding too: nothing was gathered


@pytest.mark.parametrize("positions", [(6,), (2, 3)])
def test_masks_of_one_shape_are_compared_where_both_select(positions):
    teacher, masks = LOGITS.reshape(4, *positions, 5), RNG.integers(0, 2, (2, 4, *positions))
    paired, compared = pair(teacher, *masks)
    np.testing.assert_array_equal(compared, (masks[0] != 0) & (masks[1] != 0))
    np.testing.assert_array_equal(paired, teacher)
    disjoint = pair(teacher, masks[0], 1 - masks[0])[1]
    assert not disjoint.any()


def equally_many(length):
    """A mask of ``length`` positions that selects as many of each example as ``LABELS > 1``."""
    mask = np.zeros((4, length), np.int32)
    for row, count in zip(mask, (LABELS > 1).sum(1), strict=True):
        row[RNG.permutation(length)[:count]] = 1
    return mask


@pytest.mark.parametrize(("length", "pairing"), [(6, "rank"), (9, "rank"), (9, "auto")])
def test_rank_pairs_the_kth_selected_positions_of_an_example(length, pairing):
    mask_S, mask_T = equally_many(length), np.int32(LABELS > 1)
    paired, compared = jitted(LOGITS, mask_S, mask_T, pairing=pairing)
    np.testing.assert_array_equal(compared, mask_S != 0)
    np.testing.assert_array_equal(paired[mask_S != 0], LOGITS[mask_T != 0])


@pytest.mark.slow
def test_rank_leaves_out_positions_without_a_partner_in_their_example():
    few, many = np.int32(LABELS > 3), np.int32(LABELS > 1)
    for mask_S, mask_T in ((few, many), (many, few), (many, np.zeros_like(many))):
        paired, compared = jitted(LOGITS, mask_S, mask_T, pairing="rank")
        for row in range(4):
            count = min(mask_S[row].sum(), mask_T[row].sum())
            kept = np.flatnonzero(mask_S[row])[:count]
            np.testing.assert_array_equal(np.flatnonzero(compared[row]), kept)
            expected = LOGITS[row][mask_T[row] != 0][:count]
            np.testing.assert_array_equal(paired[row][kept], expected)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_one_mask_serves_both(side):
    """TextBrewer compares any shapes that broadcast."""
    mask = np.int32(LABELS > 1)
    masks = (mask, None) if side == "student" else (None, mask)
    teacher, effective = pair_selected(LOGITS, *masks)
    assert teacher is LOGITS
    assert effective is mask
    assert pair_selected(LOGITS, None, None) == (LOGITS, None)


def test_one_mask_cannot_serve_two_lengths():
    with pytest.raises(UsageError, match=r"logits_mask \(4, 7\) does not fit .* \(4, 6, 5\)"):
        pair_selected(LOGITS, np.ones((4, 7)), None)
    with pytest.raises(UsageError, match=r"logits_mask \(4, 7\) does not fit .* \(4, 6, 5\)"):
        pair_selected(LOGITS, np.ones((4, 6)), np.ones((4, 7)))


def test_masks_of_other_batches_do_not_pair():
    with pytest.raises(UsageError, match="differ in the number of examples"):
        pair_selected(LOGITS, np.ones((3, 7)), np.ones((4, 6)))


def test_positions_may_have_several_axes():
    """Pictures: (batch, height, width, classes)."""
    teacher = RNG.normal(size=(2, 2, 3, 4)).astype("f")
    mask_S, mask_T = (RNG.permuted(np.arange(12).reshape(2, 6) % 6 < 4, axis=1) for _ in range(2))
    flat, _ = jitted(teacher.reshape(2, 6, 4), mask_S, mask_T, pairing="rank")
    mask_S, mask_T = (mask.reshape(2, 2, 3) for mask in (mask_S, mask_T))
    paired, compared = jitted(teacher, mask_S, mask_T, pairing="rank")
    np.testing.assert_array_equal(compared, mask_S)
    np.testing.assert_array_equal(paired[mask_S], flat.reshape(2, 2, 3, 4)[mask_S])
    assert pair_selected(teacher, mask_S, None)[1] is mask_S
    assert pair_selected(teacher, None, mask_T)[1] is mask_T
