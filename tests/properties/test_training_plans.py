"""When checkpoints are made and which examples a training sees, for any lengths."""

import collections
import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

import jaxbrewer as jb
from jaxbrewer.data.groups import groups
from jaxbrewer.run.plan import Plan

small = st.integers(1, 12)


@settings(max_examples=150)
@given(small, st.integers(1, 5), st.integers(0, 15), st.integers(1, 6))
def test_checkpoints_of_epochs(steps_per_epoch, epochs, frequency, epoch_frequency):
    plan = Plan(steps_per_epoch * epochs, steps_per_epoch)
    config = jb.TrainingConfig(
        ckpt_frequency=frequency, ckpt_epoch_frequency=epoch_frequency, output_dir=None
    )
    saved = [step for step in range(1, plan.total_steps + 1) if plan.saves_at(step, config)]
    assert bool(saved) == (frequency > 0)
    if frequency:
        assert saved[-1] == plan.total_steps
    by_epoch = collections.Counter((step - 1) // steps_per_epoch + 1 for step in saved)
    for epoch, count in by_epoch.items():
        assert epoch % epoch_frequency == 0 or epoch == epochs
        assert count == min(frequency, steps_per_epoch)
    longer = Plan(steps_per_epoch * (epochs + 1), steps_per_epoch)
    due = [step for step in saved if ((step - 1) // steps_per_epoch + 1) % epoch_frequency == 0]
    assert all(longer.saves_at(step, config) for step in due)


@settings(max_examples=60)
@given(st.integers(1, 40), st.none() | st.integers(1, 50))
def test_checkpoints_of_steps(total, every):
    config = jb.TrainingConfig(ckpt_steps=every, output_dir=None)
    plan = Plan(total)
    saved = [step for step in range(1, total + 1) if plan.saves_at(step, config)]
    assert saved == sorted({*range(every or total, total + 1, every or total), total})


@settings(max_examples=60)
@given(
    examples=st.integers(1, 30), batch_size=st.integers(1, 12), shuffle=st.booleans(),
    seed=st.integers(0, 5), drop_last=st.booleans(),
)  # fmt: skip
def test_every_example_is_seen_once_in_an_epoch(examples, batch_size, shuffle, seed, drop_last):
    batch_size = min(batch_size, examples)
    loader = jb.ArrayLoader(
        {"x": np.arange(examples)}, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last
    )
    for _ in range(2):
        batches = [batch["x"].tolist() for batch in loader]
        assert len(batches) == len(loader)
        seen = list(itertools.chain(*batches))
        assert len(set(seen)) == len(seen)
        left_out = examples % batch_size if drop_last else 0
        assert len(seen) == examples - left_out
        if not shuffle:
            assert seen == sorted(seen)


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.data())
def test_groups_use_batches_in_order_and_none_twice(batches, size, epochs, data):
    loader = list(range(batches))
    by_epoch = list(groups(loader, size, num_epochs=epochs))
    whole = batches // size * size
    assert [i for group in by_epoch for i in group.batches] == list(range(whole)) * epochs
    endless = list(itertools.islice(groups(loader, size), 6))
    assert [i for group in endless for i in group.batches] == [i % batches for i in range(6 * size)]
    at = data.draw(st.integers(0, 5))
    after = groups(loader, size, start=endless[at].position)
    assert [next(after).batches for _ in endless[at + 1 :]] == [
        g.batches for g in endless[at + 1 :]
    ]
