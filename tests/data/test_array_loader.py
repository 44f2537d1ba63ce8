"""Batches from arrays: order, the last batch, refusals."""

import itertools

import numpy as np
import pytest

import jaxbrewer as jb

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
