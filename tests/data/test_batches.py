"""Batches from arrays and from any iterable; groups; what cannot be a batch."""

import itertools
from collections import OrderedDict, namedtuple

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.data.batches import as_arrays
from jaxbrewer.data.groups import count_batches, groups

TEN = {"x": np.arange(10), "y": np.arange(10) * 2}


def test_orders_follow_seed_and_epoch_alone():
    loader = jb.ArrayLoader(TEN, 4, seed=1)
    first, second = ([batch["x"].tolist() for batch in loader] for _ in range(2))
    assert first != second
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(10))
    again = jb.ArrayLoader(TEN, 4, seed=1)
    again.set_epoch(1)
    assert [batch["x"].tolist() for batch in again] == second
    other = jb.ArrayLoader(TEN, 4, seed=2)
    assert [batch["x"].tolist() for batch in other] != first
    assert all((batch["y"] == 2 * batch["x"]).all() for batch in loader)


def test_the_incomplete_last_batch_is_kept_or_dropped():
    assert [len(batch["x"]) for batch in jb.ArrayLoader(TEN, 4)] == [4, 4, 2]
    dropped = jb.ArrayLoader(TEN, 4, drop_last=True)
    assert [len(batch["x"]) for batch in dropped] == [4, 4]
    assert len(dropped) == 2


@pytest.mark.parametrize(
    ("arrays", "size"), [({"x": []}, 1), ({"x": [1], "y": [1, 2]}, 1), ({"x": [1, 2]}, 0)]
)
def test_arrays_that_make_no_batches_are_refused(arrays, size):
    with pytest.raises(jb.UsageError, match="ArrayLoader"):
        jb.ArrayLoader(arrays, size)


def test_groups_drop_an_epochs_remainder_but_not_when_steps_are_counted():
    """Else accumulated gradients would cross epochs, or be dropped, unseen."""
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


class Tensor:
    """What a PyTorch tensor looks like from here."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_batches_of_all_kinds_become_arrays():
    Pair = namedtuple("Pair", "x y")
    batch = as_arrays(
        OrderedDict(
            t=Tensor([1, 2]),
            numbers=[[1], [2]],
            layers=[np.zeros(1), jnp.ones(2)],
            none=None,
            pair=Pair(1, 2.5),
        )
    )
    assert type(batch) is dict
    np.testing.assert_array_equal(batch["t"], [1, 2])
    np.testing.assert_array_equal(batch["numbers"], [[1], [2]])
    assert [layer.shape for layer in batch["layers"]] == [(1,), (2,)]
    assert batch["none"] is None
    assert [float(value) for value in as_arrays((Tensor(1), 2))] == [1, 2]


@pytest.mark.parametrize("value", [["a", "b"], np.array(["a"]), "a", np.array([None])])
def test_text_in_a_batch_is_named(value):
    with pytest.raises(jb.UsageError, match=r"'inputs.text' holds"):
        as_arrays({"inputs": {"text": value}})
