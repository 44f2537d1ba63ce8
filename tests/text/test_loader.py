"""Batches hold every example once, in few shapes, in an order that seed and epoch decide."""

import itertools

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.text import Encoded, TextLoader
from jaxbrewer.text.loader import choose_widths


def make_encoded(lengths, **fields):
    """Example ``i`` consists of the token ``i + 1``."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.arange(1, len(lengths) + 1), lengths).astype(np.int32)
    return Encoded(tokens, np.zeros_like(tokens), offsets, **fields)


LENGTHS = np.random.default_rng(0).integers(3, 40, size=1003)
LABELS = np.arange(1003) % 7


@pytest.fixture
def loader():
    return TextLoader(make_encoded(LENGTHS), batch_size=8, labels=LABELS, seed=3)


def rows(batches):
    return np.concatenate([batch["example_id"] for batch in batches])


def test_every_example_comes_once_with_its_own_tokens_and_label(loader):
    batches = list(loader)
    assert len(batches) == len(loader) == 126
    assert sorted(rows(batches)) == list(range(1003))
    for batch in batches:
        np.testing.assert_array_equal(batch["input_ids"][:, 0], batch["example_id"] + 1)
        np.testing.assert_array_equal(
            batch["attention_mask"].sum(axis=1), LENGTHS[batch["example_id"]]
        )
        np.testing.assert_array_equal(batch["labels"], LABELS[batch["example_id"]])


def test_there_are_few_shapes_over_all_epochs_and_one_of_them_is_partial(loader):
    batches = list(itertools.chain.from_iterable(loader for _ in range(4)))
    shapes = {batch["input_ids"].shape for batch in batches}
    assert shapes == {(8, width) for width in loader.widths} | {(3, max(loader.widths))}
    assert len(loader.widths) == 4
    padded = sum(batch["input_ids"].size for batch in batches)
    assert padded < 1.3 * sum(batch["attention_mask"].sum() for batch in batches)


def test_the_order_is_a_function_of_seed_and_epoch(loader):
    again = TextLoader(make_encoded(LENGTHS), batch_size=8, seed=3)
    first, second = rows(loader), rows(loader)
    assert not np.array_equal(first, second)
    again.set_epoch(1)
    np.testing.assert_array_equal(rows(again), second)
    other = TextLoader(make_encoded(LENGTHS), batch_size=8, seed=4)
    assert not np.array_equal(rows(other), first)


def test_lengths_are_mixed_over_the_epoch(loader):
    """Sorted windows must not make the training go from short to long."""
    means = [LENGTHS[batch["example_id"]].mean() for batch in itertools.islice(loader, 125)]
    steps = np.arange(len(means))
    assert abs(np.corrcoef(steps, means)[0, 1]) < 0.3
    assert abs(np.corrcoef(steps[:50], means[:50])[0, 1]) < 0.4


def test_without_shuffling_examples_come_by_length_each_time():
    loader = TextLoader(make_encoded([5, 3, 9, 3, 4]), batch_size=2, shuffle=False)
    assert [batch["example_id"].tolist() for batch in loader] == [[1, 3], [4, 0], [2]]
    assert [batch["example_id"].tolist() for batch in loader] == [[1, 3], [4, 0], [2]]
    assert "labels" not in next(iter(loader))


def test_drop_last_leaves_out_the_incomplete_batch():
    loader = TextLoader(make_encoded([3] * 7), batch_size=3, drop_last=True)
    assert len(loader) == len(list(loader)) == 2
    seen = {row for _ in range(20) for row in rows(loader).tolist()}
    assert seen == set(range(7))  # another one is left out each time


def test_no_batch_is_wider_than_the_examples_may_be():
    encoded = make_encoded([3, 9, 13], max_length=13)
    alone = TextLoader(encoded, batch_size=1)
    both = TextLoader({"teacher": encoded, "student": make_encoded([3, 9, 13])}, batch_size=1)
    assert alone.widths == [8, 13]
    assert both.widths == [8, 16, 16]
    assert {batch["teacher"]["input_ids"].shape[1] for batch in both} == {8, 13}


def test_widths_are_those_with_the_least_padding():
    lengths = np.array([3] * 50 + [20] * 5 + [30] * 40 + [61])

    def padding(widths):
        return sum(min(width for width in widths if width >= length) for length in lengths)

    candidates = range(8, 64, 8)
    for count in (1, 2, 3):
        chosen = choose_widths(lengths, count)
        best = min(padding([*some, 64]) for some in itertools.combinations(candidates, count - 1))
        assert len(chosen) == count
        assert padding(chosen) == best
    assert choose_widths(lengths, 20) == [8, 24, 32, 64]


@pytest.mark.parametrize(
    ("lengths", "arguments", "message"),
    [
        ([], {"batch_size": 2}, "batch_size 2 for 0 examples"),
        ([3], {"batch_size": 0}, "batch_size 0"),
        ([3], {"batch_size": 2, "drop_last": True}, "batch_size 2 for 1 examples"),
        ([3, 4], {"batch_size": 2, "labels": [1]}, "1 labels for 2 examples"),
        ([3, 4], {"batch_size": 2, "num_widths": 0}, "num_widths must be at least 1"),
    ],
)
def test_unusable_arguments_are_refused(lengths, arguments, message):
    with pytest.raises(UsageError, match=message):
        TextLoader(make_encoded(lengths), **arguments)
