"""Records of single examples, decoded as batches of other widths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.cache.record_layout import RecordLayout, layout_of
from jaxbrewer.cache.records import content_check, decode, encode, is_sound
from jaxbrewer.objective.top_k import keep_top_k

RNG = np.random.default_rng(0)
LENGTHS = np.array([3, 5, 1, 4])
CHECKS = np.arange(4, dtype=np.uint64) + 2**63


def outputs(width, *, left=False, dtype=np.float32):
    """All that a teacher may return, equal for an example in any width; padding holds NaN."""
    places = np.arange(width)
    mask = (places < LENGTHS[:, None]) if not left else (places >= width - LENGTHS[:, None])
    offset = (width - LENGTHS) * left

    def values(seed, *shape):
        rng = np.random.default_rng(seed)
        array = np.full((4, width, *shape), np.nan, np.float32)
        for row, length in enumerate(LENGTHS):
            own = slice(offset[row], offset[row] + length)
            array[row, own] = rng.normal(size=(length, *shape))
        return array.astype(dtype)

    some = mask & (np.nan_to_num(values(0).astype(np.float32)) > 0)  # a mask with holes
    return jb.Outputs(
        logits=(values(1, 11), np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)),
        logits_mask=(some.astype(np.int32), mask),
        logits_weights=(values(5), np.ones(4, np.float32)),
        labels=(np.where(some, places * 0 + 7, -100),),
        inputs_mask=np.where(mask, np.float32(1), 0).astype(np.float32),
        features={"hidden": (None, values(3, 6), None, values(4, 6))},
    )


def same(actual, expected):
    """Arrays are equal where their masks select; masks are equal everywhere."""
    np.testing.assert_array_equal(actual.inputs_mask, expected.inputs_mask)
    assert actual.inputs_mask.dtype == expected.inputs_mask.dtype
    for ours, theirs in zip(actual.logits_mask, expected.logits_mask, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    chosen = np.asarray(expected.logits_mask[0]) != 0
    np.testing.assert_array_equal(actual.logits[0][chosen], expected.logits[0][chosen])
    assert not np.any(np.asarray(actual.logits[0], np.float32)[~chosen])
    np.testing.assert_array_equal(actual.logits[1], expected.logits[1])
    np.testing.assert_array_equal(actual.labels[0], expected.labels[0])
    weights = expected.logits_weights
    np.testing.assert_array_equal(actual.logits_weights[0][chosen], weights[0][chosen])
    np.testing.assert_array_equal(actual.logits_weights[1], weights[1])
    tokens = np.asarray(expected.inputs_mask) != 0
    for ours, theirs in zip(actual.features["hidden"], expected.features["hidden"], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours[tokens], theirs[tokens])
            assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float64])
def test_records_decode_into_a_batch_of_another_width_and_order(left, dtype):
    built, asked = outputs(6, left=left, dtype=dtype), outputs(9, left=left, dtype=dtype)
    layout = RecordLayout.from_dict(layout_of(built).to_dict())
    records = encode(built, layout, CHECKS)
    order = [2, 0, 3, 1]
    widths = dict.fromkeys(layout.masks, 9)
    actual = decode([records[row] for row in order], layout, widths)
    same(actual, jax.tree.map(lambda x: x[np.array(order)], asked))
    same(decode(records, layout), built)
    assert [content_check(record) for record in records] == CHECKS.tolist()


def test_padding_is_not_stored():
    wide, slim = (encode(outputs(width), layout_of(outputs(6)), CHECKS) for width in (600, 6))
    assert list(map(len, wide)) == list(map(len, slim))


def test_a_fractional_mask_keeps_its_numbers():
    built = outputs(6)
    weights = np.where(built.inputs_mask != 0, np.float32(0.3), 0)
    built = dataclasses.replace(built, inputs_mask=weights)
    layout = layout_of(built)
    same(decode(encode(built, layout, CHECKS), layout), built)


def test_arrays_without_a_mask_are_stored_whole():
    attention = RNG.normal(size=(4, 2, 6, 6)).astype(np.float32)
    plain = jb.Outputs(logits=(RNG.normal(size=(4, 6, 5)).astype(np.float32),))
    plain = dataclasses.replace(plain, features={"attention": (attention,)})
    layout = layout_of(plain)
    records = encode(plain, layout, CHECKS)
    found = decode(records, layout, {})
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    other = encode(jax.tree.map(lambda x: x[:, :4], plain), layout, CHECKS)
    with pytest.raises(jb.UsageError, match=r"logits/0 .* return 'logits_mask'"):
        decode([records[0], other[0]], layout, {})


def test_mismatched_examples_are_refused():
    layout = layout_of(outputs(6))
    records = encode(outputs(6), layout, CHECKS)
    with pytest.raises(jb.UsageError, match="of 5 positions .* does not fit a batch of 4"):
        decode(records, layout, dict.fromkeys(layout.masks, 4))


def test_numbers_beyond_the_range_of_float16_are_refused():
    built = outputs(6)
    layout = layout_of(built, half=True)
    found = decode(encode(built, layout, CHECKS), layout)
    chosen = built.logits_mask[0] != 0
    np.testing.assert_allclose(found.logits[0][chosen], built.logits[0][chosen], rtol=1e-3)
    assert found.logits[0].dtype == np.float32
    built.logits[1][0, 0] = 1e6
    with pytest.raises(jb.UsageError, match="logits/1 hold numbers beyond the range of float16"):
        encode(built, layout, CHECKS)


@pytest.mark.slow
def test_a_top_k_survives_with_and_without_a_mask():
    built = outputs(6)
    kept = jax.device_get(tuple(keep_top_k(x, 2, (1, 3)) for x in built.logits))
    built = dataclasses.replace(built, logits=kept)
    layout = RecordLayout.from_dict(layout_of(built, bits=32).to_dict())
    found = decode(encode(built, layout, CHECKS), layout, dict.fromkeys(layout.masks, 8))
    chosen = built.logits_mask[0] != 0
    wide = np.pad(chosen, ((0, 0), (0, 2)))
    for ours, theirs in zip(*map(jax.tree.leaves, (found.logits[0], kept[0])), strict=True):
        np.testing.assert_array_equal(ours[wide], theirs[chosen])
    jax.tree.map(np.testing.assert_array_equal, found.logits[1], kept[1])
    assert found.logits[0].shape == (4, 8, 11)


def test_the_crc_finds_every_flipped_byte():
    record = encode(outputs(6), layout_of(outputs(6)), CHECKS)[0]
    assert is_sound(record)
    for place in range(len(record)):
        damaged = bytearray(record)
        damaged[place] ^= 0x10
        assert not is_sound(bytes(damaged))
    assert not is_sound(record[:-1])
    assert not is_sound(b"")
