"""Groups of batches for one optimizer step, from any iterable."""

import itertools

import pytest

import jaxbrewer as jb
from jaxbrewer.data.groups import count_batches, groups


def test_groups_drop_an_epochs_remainder_but_not_when_steps_are_counted():
    """Otherwise gradients would silently accumulate across epochs or be dropped."""
    batches = list("abcde")
    by_epoch = [group.batches for group in groups(batches, 2, num_epochs=2)]
    assert by_epoch == [("a", "b"), ("c", "d")] * 2
    by_step = list(itertools.islice(groups(batches, 2), 4))
    assert [group.batches for group in by_step] == [
        ("a", "b"), ("c", "d"), ("e", "a"), ("b", "c"),
    ]  # fmt: skip
    assert [(group.epoch, group.batch_in_epoch) for group in by_step] == [
        (0, 2), (0, 4), (1, 1), (1, 3),
    ]  # fmt: skip


def test_an_exhausted_iterator_is_refused():
    """Lesson B.6, 32."""
    generator = iter(["a", "b"])
    running = groups(generator, 1)
    assert [next(running).batches for _ in range(2)] == [("a",), ("b",)]
    with pytest.raises(jb.UsageError, match="exhausted after 1 passes"):
        next(running)
    with pytest.raises(jb.UsageError, match="no batches"):
        next(groups([], 1))


def test_set_epoch_is_called_on_loaders_and_samplers():
    """Lesson B.6, 42: not in step mode; and a plain sampler raised."""

    class Sampler:
        epochs = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    class Loader(list):
        sampler = Sampler()

    list(itertools.islice(groups(Loader(["a", "b"]), 1), 5))
    assert Sampler.epochs == [0, 1, 2]
    plain = Loader(["a"])
    plain.sampler = object()
    assert len(list(groups(plain, 1, num_epochs=3))) == 3


def test_batches_are_counted_by_length_or_by_iteration():
    class Walked:
        def __iter__(self):
            return iter("abc")

    assert count_batches(["a"]) == 1
    assert count_batches(Walked()) == 3
    for loader, says in (([], "empty"), (iter("ab"), "num_steps"), (3, "iterable")):
        with pytest.raises(jb.UsageError, match=says):
            count_batches(loader)
