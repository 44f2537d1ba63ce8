"""Round trips through bytes, and the errors of quantization."""

import math

import numpy as np
import pytest

from jaxbrewer.cache import top_k_codec as codec

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("classes", "k"), [(32_000, 64), (49_152, 64), (151_936, 32), (100, 64), (7, 7), (5, 1)]
)
def test_indices_survive_a_round_trip(classes, k):
    rows = [np.sort(RNG.permutation(classes)[:k]) for _ in range(20)]
    indices = np.stack([*rows, np.arange(k), np.arange(classes - k, classes)])
    packed = codec.pack_indices(indices, classes)
    assert packed.shape == (len(indices), codec.index_bytes(classes, k))
    np.testing.assert_array_equal(codec.unpack_indices(packed, k, classes), indices)
    # Vigna 2013: less than half a bit per number from the least that any code of sets needs,
    # which is log2 of how many sets there are; plus what rounding to bytes costs.
    least = (
        math.lgamma(classes + 1) - math.lgamma(k + 1) - math.lgamma(classes - k + 1)
    ) / math.log(2)
    assert 8 * packed.shape[1] <= least + k + 16


@pytest.mark.parametrize("bits", [1, 3, 8, 9, 15, 16])
def test_bits_survive_a_round_trip(bits):
    values = RNG.integers(0, 1 << bits, (10, 13))
    np.testing.assert_array_equal(
        codec.unpack_bits(codec.pack_bits(values, bits), 13, bits), values
    )


@pytest.mark.parametrize("bits", [4, 6, 8, 11, 16])
def test_the_error_of_values_is_within_the_grid(bits):
    logits = RNG.normal(0, 4, (200, 16)).astype(np.float32) - 20
    packed = codec.pack_values(logits, bits)
    assert packed.shape[1] == codec.value_bytes(16, bits)
    found = codec.unpack_values(packed, 16, bits)
    largest = logits.max(1, keepdims=True)
    width = largest - logits.min(1, keepdims=True)
    half = 0.5 / ((1 << bits) - 2)
    root = np.sqrt((largest - logits) / width)
    bound = width * (2 * root * half + half**2 + 2**-10)
    assert np.all(np.abs(found - logits) <= bound)
    np.testing.assert_array_equal(found.max(1), logits.max(1))


def test_equal_values_infinities_and_32_bits_survive_unchanged():
    equal = np.full((2, 5), 3.25, np.float32)
    np.testing.assert_array_equal(codec.unpack_values(codec.pack_values(equal, 6), 5, 6), equal)
    ruled_out = np.array([[1, -np.inf, 0], [-np.inf] * 3], np.float32)
    found = codec.unpack_values(codec.pack_values(ruled_out, 8), 3, 8)
    np.testing.assert_allclose(found, ruled_out, atol=0.01)
    exact = RNG.normal(size=(3, 7)).astype(np.float32)
    np.testing.assert_array_equal(codec.unpack_values(codec.pack_values(exact, 32), 7, 32), exact)
