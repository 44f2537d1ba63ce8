"""Any loader resumes from a position."""

import itertools
import json

import grain.python as grain
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.cache import CachedLoader
from jaxbrewer.data.groups import groups
from jaxbrewer.data.position import checksum, without_entries
from jaxbrewer.text import Encoded, TextLoader

ROWS = {"x": np.arange(28), "y": np.arange(28) * 2}
BATCHES = [{"x": np.arange(i, i + 4)} for i in range(7)]


class Shuffled:
    """A user's loader: it gets the epoch, and can only start at its first batch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return (BATCHES[i] for i in np.random.default_rng(self.epoch).permutation(7))


def text_loader():
    ends = np.cumsum(np.random.default_rng(0).integers(1, 20, 27))
    tokens = np.arange(ends[-1], dtype=np.int32)
    return TextLoader(Encoded(tokens, 0 * tokens, np.array([0, *ends])), 4)


def grain_dataset(**options):
    dataset = grain.MapDataset.source(np.arange(28)).shuffle(seed=3).map(lambda i: {"x": i})
    dataset = dataset.batch(4)
    return dataset.to_iter_dataset(grain.ReadOptions(**options)) if options else dataset


def grain_loader():
    sampler = grain.IndexSampler(
        28, shard_options=grain.NoSharding(), shuffle=True, num_epochs=1, seed=1
    )
    return grain.DataLoader(
        data_source=np.arange(28), sampler=sampler, operations=[grain.Batch(4)], worker_count=0
    )


LOADERS = {
    "a list": lambda: list(BATCHES),
    "arrays": lambda: jb.ArrayLoader(ROWS, 4, seed=5),
    "texts": text_loader,
    "a cache": lambda: CachedLoader(BATCHES, lambda batch: jb.Outputs({}, {})),
    "any iterable": Shuffled,
    "a grain data set": grain_dataset,
    "a prefetching one": lambda: grain_dataset(num_threads=2, prefetch_buffer_size=4),
    "a grain loader": grain_loader,
}
ITERATORS = {
    "a generator": lambda: (batch for _ in range(3) for batch in BATCHES),
    "a grain iterator": lambda: iter(grain_dataset().repeat(3)),
}


def sums(found):
    return [(g.epoch, g.batch_in_epoch, [checksum(batch) for batch in g.batches]) for g in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_epochs"),
    [*itertools.product(LOADERS, [3, None]), *((name, None) for name in ITERATORS)],
)
def test_a_position_resumes_with_the_next_group(name, num_epochs):
    make = (LOADERS | ITERATORS)[name]

    def read(start=None, count=9):
        return itertools.islice(groups(make(), 2, num_epochs=num_epochs, start=start), count)

    every = list(read())
    for done in (1, 3, 4, 7, 9):
        start = json.loads(json.dumps(every[done - 1].position))
        assert sums(read(start, 9 - done)) == sums(every)[done:]


def test_loaders_with_positions_resume_without_reading_earlier_batches():
    reads = []

    class Counted(np.ndarray):
        def __getitem__(self, rows):
            reads.append(len(rows))
            return np.asarray(self)[rows]

    loader = jb.ArrayLoader({"x": np.arange(400).view(Counted)}, 4)
    start = {"epoch": 1, "batch": 99}
    assert next(groups(loader, 1, start=start)).batch_in_epoch == 100
    assert reads == [4, 4]  # the batch before, which is compared, and the next


@pytest.mark.parametrize("make", [*LOADERS.values(), ITERATORS["a generator"]])
def test_other_data_are_refused_unless_the_checksum_is_dropped(make):
    start = next(groups(make(), 3)).position
    other = start | {"checksum": start["checksum"] ^ 1}
    with pytest.raises(jb.UsageError, match="does not yield batch 3 of epoch 0 as it did before"):
        next(groups(make(), 3, start=other))
    following = next(groups(make(), 3, start=without_entries(other, "checksum")))
    assert sums([following]) == sums(itertools.islice(groups(make(), 3), 1, 2))


def test_an_order_that_cannot_be_reproduced_is_refused():
    start = next(groups(Shuffled(), 3)).position
    loader = Shuffled()
    loader.set_epoch = lambda epoch: Shuffled.set_epoch(loader, epoch + 1)
    with pytest.raises(jb.UsageError, match="needs a seed and set_epoch"):
        next(groups(loader, 3, start=start))
    with pytest.raises(jb.UsageError, match="does not yield batch 3"):
        next(groups(BATCHES[:2], 3, start=start))


def test_a_loader_without_state_refuses_a_saved_state():
    start = next(groups(grain_dataset(), 2)).position
    with pytest.raises(jb.UsageError, match="list_iterator, has none: pass the same loader"):
        next(groups(BATCHES, 2, start=start))
    with pytest.raises(jb.UsageError, match="cannot restore its saved state"):
        next(groups(grain_loader(), 2, start=start))


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.arange(5000), "t": "b"},
        {"x": np.arange(5000), "t": ["a"]},
        {"z": np.arange(5000), "t": "a"},
        {"x": np.arange(5000).reshape(2, 2500), "t": "a"},
        {"x": np.arange(5000).astype(np.int32), "t": "a"},
        {"x": np.arange(1, 5001), "t": "a"},
    ],
)
def test_checksums_tell_batches_apart(other):
    one = {"x": np.arange(5000), "t": "a"}
    assert checksum(one) == checksum(dict(one))
    assert checksum(one) == checksum({**one, "teacher_cache": np.ones(3)})
    assert checksum(other) != checksum(one)
    assert checksum({"o": np.array([None, object])}) != checksum({"o": [1]})
