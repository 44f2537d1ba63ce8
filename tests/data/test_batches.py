"""A batch is looked at before it is used: examples, emptiness, names, lists."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.data.batches import BatchReader, as_batch, batch_size

Graph = namedtuple("Graph", "nodes edges n_node")


@pytest.mark.parametrize(
    "batch",
    [
        {"x": np.ones((4, 2)), "labels": np.ones(4)},
        {"x": np.ones((4, 2)), "labels": np.ones(4), "scale": 0.5},
        {"x": [1.0, 2.0], "y": [1, 2]},
        (np.ones((4, 2)), np.ones(4)),
        np.ones((4, 2)),
        {"graph": Graph(np.ones((3, 2)), np.ones((0, 2)), np.array([3]))},
        {"layers": [np.ones((4, 2)), np.ones((4, 3))], "labels": np.ones(4)},
        {"layers": [np.ones((2, 3)), np.ones((2, 3))], "labels": np.ones(2)},
        {"teacher": {"x": np.ones((4, 2))}, "student": {"x": np.ones((4, 3))}},
        {"teacher": [{"x": np.ones((4, 2))}] * 2, "student": {"x": np.ones((4, 3))}},
        {"x": np.ones((4, 2)), "teacher_cache": {"logits": np.ones((4, 3)), "scale": 1.0}},
    ],
)
def test_batches_are_accepted(batch):
    as_batch(batch)


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        ({"x": np.ones(8), "labels": 3}, "'labels'"),
        ({"image": np.ones((8, 8, 3)), "class": 3}, "'class'"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "length": 3}, "'length'"),
        ({"ids": [1, 2], "boxes": np.ones((2, 4)), "label": np.int64(1)}, "'label'"),
        ((np.ones(8), 3), "'1'"),
        ({"a": 1.0, "b": 2}, "'a'"),
        ({"teacher": {"x": np.ones(3), "y": 1}, "student": {"x": np.ones((4, 2))}}, "'y'"),
        (3.0, "it"),
    ],
)
def test_single_examples_are_refused(row, entry):
    with pytest.raises(jb.UsageError, match=f"single examples, not batches: .*{entry} is one num"):
        as_batch(row)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (None, r"without arrays, None\."),
        ({}, r"without arrays, {}\."),
        ((), "without arrays"),
        ({"x": None}, r"without arrays\."),
        ({"x": np.ones((0, 3)), "y": np.ones(0)}, r"without examples: its entry 'x' .* \(0, 3\)"),
        (
            {"teacher": {"x": np.ones((0, 3))}, "student": {"x": np.ones((4, 3))}},
            "without examples",
        ),
        ({0: np.ones((2, 3))}, "must have names, got the key 0"),
        ({"x": np.ones((2, 3)), 1: np.ones(2)}, "must have names, got the key 1"),
        ([{"x": np.ones(3)}] * 2, "a list of 2 dicts, not a batch: collate them"),
        (
            {"x": list(np.ones((4, 2))), "labels": np.ones(4)},
            r"'x' is a list of 4 arrays of shape \(2,\), one per example",
        ),
    ],
)
def test_batches_without_examples_or_structure_are_refused(batch, says):
    for read in (as_batch, BatchReader()):
        with pytest.raises(jb.UsageError, match=says):
            read(batch)


def test_a_reader_converts_and_refuses_as_if_each_batch_were_the_first():
    arrays = {"x": np.ones((4, 2)), "y": np.ones(4)}
    batches = [
        arrays,
        {"x": np.ones((4, 2)).tolist(), "y": np.ones(4)},
        {"x": jnp.ones((4, 2)), "y": np.ones(4)},
        {"x": np.ones((3, 2)), "y": np.ones(3)},
        {"x": np.ones((4, 2)), "y": np.ones(4, int)},
        (np.ones((4, 2)), np.ones(4)),
        [np.ones((4, 2)), np.ones(4)],
    ]
    read = BatchReader()
    shapes = []
    for batch in [*batches, *batches]:
        found, expected = read(batch), as_batch(batch)
        assert jax.tree.all(jax.tree.map(np.array_equal, found.arrays, expected))
        assert type(found.arrays) is type(expected)
        assert found.size == batch_size(expected)
        shapes.append(found.shape)
    assert shapes == 2 * [0, 0, 1, 2, 3, 4, 4]
    assert read(arrays).arrays is arrays
    masked = np.ma.masked_equal(arrays["x"], 1)
    for bad in ({**arrays, "x": masked}, {**arrays, "x": np.full((4, 2), "a")}):
        with pytest.raises(jb.UsageError):
            read(bad)


def test_the_size_of_a_batch_is_that_of_its_first_array():
    assert batch_size({"a": 1.0, "x": np.ones((4, 2))}) == 4
    assert batch_size({"teacher": {"x": np.ones(3)}, "student": {"x": np.ones(4)}}) == 4
