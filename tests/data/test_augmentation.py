"""Random changes of tokens: kinds of sequences, bad arguments, and properties of any input."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxbrewer import UsageError
from jaxbrewer.data import augmentation

FUNCTIONS = {
    "masking": {"p": 0.5, "mask": -1},
    "deleting": {"p": 0.5},
    "n_gram_sampling": {},
    "short_disorder": {"p": (0.2, 0.2, 0.2, 0.2, 0.2)},
    "long_disorder": {"p": 0.5, "length": 4},
}


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=50)
@given(length=st.integers(0, 12), seed=st.integers(0, 9))
def test_lists_tuples_and_arrays_of_any_length_give_the_same_tokens(function, length, seed):
    tokens = list(range(length))
    outputs = []
    for kind in (list, tuple, np.array):
        given_tokens = kind(tokens)
        rng = np.random.default_rng(seed)
        output = getattr(augmentation, function)(given_tokens, **FUNCTIONS[function], rng=rng)
        assert list(given_tokens) == tokens
        assert type(output) is type(given_tokens)
        outputs.append(list(output))
    assert outputs[0] == outputs[1] == outputs[2]
    if function == "masking":
        assert all(new in (old, -1) for old, new in zip(tokens, outputs[0], strict=True))
    elif function == "deleting":
        assert outputs[0] == sorted(set(outputs[0]))
    elif function == "n_gram_sampling":
        size = len(outputs[0])
        assert outputs[0] in [tokens[start:][:size] for start in range(length + 1)]
        assert min(length, 1) <= size <= 5
    else:
        assert sorted(outputs[0]) == tokens


@settings(max_examples=100)
@given(
    count=st.integers(0, 9),
    length=st.floats(0, 12, exclude_min=True),
    p=st.sampled_from([0, 0.5, 1]),
)
def test_long_disorder_ends_for_every_length(count, length, p):
    tokens = list(range(count))
    output = augmentation.long_disorder(tokens, p, length, rng=np.random.default_rng(0))
    assert sorted(output) == tokens


def test_lengths_above_1_are_numbers_of_tokens():
    output = augmentation.long_disorder(list(range(5)), 1, 1.5, rng=np.random.default_rng(0))
    assert output == [1, 0, 3, 2, 4]


@pytest.mark.parametrize(
    ("tokens", "mask", "expected"),
    [
        (np.array(["a", "b"]), "[MASK]", ["[MASK]"] * 2),
        (np.array([b"a"]), b"[MASK]", [b"[MASK]"]),
        (np.array([5, 6], np.uint16), np.int64(3), [3, 3]),
        (np.array([5.0]), 3, [3.0]),
        (np.array([True]), False, [False]),
        (np.array(["a", 3], object), None, [None, None]),
        (np.array(["a", 3], object), [1, 2], [[1, 2], [1, 2]]),
    ],
)
def test_an_array_takes_a_mask_that_its_dtype_holds(tokens, mask, expected):
    masked = augmentation.masking(tokens, p=1, mask=mask, rng=np.random.default_rng(0))
    assert masked.tolist() == expected
    assert masked.dtype.kind == tokens.dtype.kind


@pytest.mark.parametrize(
    ("tokens", "masks"),
    [
        (np.array([1]), ("[MASK]", None, 1.5, [1], {}, np.nan, 2**70)),
        (np.array([1], np.uint8), (-1, 300, None)),
        (np.array([1.0]), (None, "1", [1.0], {})),
        (np.array([True]), (3, None)),
        (np.array(["a"]), (3, b"a", None)),
        (np.array([b"a"]), ("a", None)),
    ],
)
def test_a_mask_that_an_array_cannot_hold_is_refused(tokens, masks):
    for mask in masks:
        with pytest.raises(UsageError, match=r"^masking: the mask .* does not fit an array of"):
            augmentation.masking(tokens, mask=mask, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("masking", {"tokens": "text"}, "tokens must be"),
        ("masking", {"tokens": np.ones((2, 2))}, "tokens must be"),
        ("masking", {"rng": 0}, "rng must be"),
        ("masking", {"p": 1.5}, "p must be a probability"),
        ("deleting", {"p": -0.1}, "p must be a probability"),
        ("long_disorder", {"p": "1"}, "p must be a probability"),
        ("long_disorder", {"length": 0}, "length must be"),
        ("short_disorder", {"p": [1, 0]}, "p must be 5 probabilities"),
        ("short_disorder", {"p": [2, -1, 0, 0, 0]}, "p must be 5 probabilities"),
        ("n_gram_sampling", {"p_ng": [1.0]}, "p_ng must be 5 probabilities"),
        ("n_gram_sampling", {"l_ng": [0, 1, 2, 3, 4]}, "l_ng must hold ints"),
    ],
)
def test_invalid_arguments_are_named(function, arguments, message):
    call = {"tokens": [1, 2, 3], "rng": np.random.default_rng(0), **arguments}
    with pytest.raises(UsageError, match=f"^{function}: {message}"):
        getattr(augmentation, function)(**call)
