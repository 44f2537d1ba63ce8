"""Packed rows, padded rows and single documents give the same losses and gradients."""

import itertools

import jax
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.data.groups import groups
from jaxbrewer.data.packing import IGNORED, Segments, pack
from jaxbrewer.text import TextLoader
from jaxbrewer.text.documents import PackedLoader, make_documents

from .toy_language import causal_params, next_token_loss, random_documents

LENGTHS = (3, 12, 7, 3, 2, 7, 16, 3, 2, 12)


@jax.jit
def total_and_gradient(params, batch):
    return jax.value_and_grad(next_token_loss, has_aux=True)(params, batch)


def epoch_loss(params, loader):
    """The loss of all batches, divided once, and its gradient."""
    sums = [total_and_gradient(params, batch) for batch in loader]
    (total, count), gradient = jax.tree.map(lambda *parts: sum(parts), *sums)
    return jax.tree.map(lambda part: part / count, (total, gradient))


def column(documents, name):
    return documents.input_ids if name == "input_ids" else documents.token_columns[name]


def assert_same(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), one, other)


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [False, True])
def test_packed_rows_padded_rows_and_single_documents_have_one_loss_and_gradient(prompts):
    documents, params = random_documents(LENGTHS, prompts=prompts), causal_params()
    alone = [documents.batch([row], documents.lengths[row]) for row in range(len(documents))]
    expected = epoch_loss(params, alone)
    assert_same(epoch_loss(params, PackedLoader(documents, 2, 16)), expected)
    assert_same(epoch_loss(params, PackedLoader(documents, 3, 24, shuffle=False)), expected)
    assert_same(epoch_loss(params, TextLoader(documents, 4, num_widths=1)), expected)


def test_windows_lose_no_label_and_cross_no_document():
    documents = random_documents((30, 7, 16, 17, 33))
    pieces = documents.windows(16)
    assert pieces.lengths.max() == 16
    assert pieces.label_count == documents.label_count
    place = documents.offsets[pieces.facts["document"]] + pieces.facts["first"]
    for name in ("input_ids", "labels"):
        whole, cut = column(documents, name), column(pieces, name)
        for start, stop, at in zip(pieces.offsets, pieces.offsets[1:], place, strict=False):
            np.testing.assert_array_equal(cut[start:stop], whole[at : at + stop - start])
    first = documents.windows(16, truncate=True)
    assert first.lengths.tolist() == [16, 7, 16, 16, 16]
    assert (first.facts["first"] == 0).all()


def test_the_last_token_of_a_document_has_no_label_in_any_form():
    documents = random_documents(LENGTHS)
    for batch in itertools.chain(PackedLoader(documents, 2, 16), TextLoader(documents, 3)):
        segments = Segments.of(batch["segment_ids"])
        ends = segments.starts + segments.lengths - 1
        assert (batch["labels"][segments.rows, ends] == IGNORED).all()
        within = np.ones(segments.shape, bool)
        within[segments.rows, ends] = False
        within &= batch["segment_ids"] != 0
        shifted = np.roll(batch["input_ids"], -1, axis=1)
        np.testing.assert_array_equal(batch["labels"][within], shifted[within])
        assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()


def test_prompt_tokens_are_no_labels():
    documents = make_documents(
        [np.array([5, 6, 7, 8]), np.array([1, 2, 3])],
        [np.array([0, 0, 1, 1], bool), np.array([0, 1, 0], bool)],
        [np.array([1, 2, 3, 4]), np.array([5, 6, 7])],
    )
    assert column(documents, "labels").tolist() == [-100, 7, 8, -100, 2, -100, -100]
    assert documents.token_facts["label_bytes"].tolist() == [0, 3, 4, 0, 6, 0, 0]
    assert column(documents.windows(2), "labels").tolist() == [-100, 7, 8, -100, 2, -100]
    with pytest.raises(UsageError, match="prompts fill all of them"):
        documents.take([0]).windows(1, truncate=True)


@pytest.mark.parametrize("seed", range(3))
def test_every_document_is_in_every_epoch_once_and_whole(seed):
    lengths = np.random.default_rng(seed).integers(1, 65, 200)
    documents = random_documents(lengths, seed=seed)
    loader = PackedLoader(documents, 4, 64, seed=seed)
    rows = []
    for _ in range(2):
        seen = {}
        for batch in loader:
            segments = Segments.of(batch["segment_ids"])
            for row, start, length in zip(
                segments.rows, segments.starts, segments.lengths, strict=True
            ):
                ids = batch["example_id"][row, start : start + length]
                assert (ids == ids[0]).all()
                seen[int(ids[0])] = batch["input_ids"][row, start : start + length]
                assert (
                    batch["position_ids"][row, start : start + length] == np.arange(length)
                ).all()
            rows.append(batch["example_id"].tolist())
        assert sorted(seen) == list(range(200))
        for number, tokens in seen.items():
            start = documents.offsets[number]
            np.testing.assert_array_equal(tokens, documents.input_ids[start : start + len(tokens)])
    half = len(rows) // 2
    assert rows[:half] != rows[half:]
    least = -(-lengths.sum() // 64)
    assert loader.filled > 0.9
    assert pack(lengths, 64).count <= 1.05 * least + 1


def test_packing_never_overfills_a_row_and_never_overlaps():
    for seed in range(5):
        lengths = np.random.default_rng(seed).integers(1, 33, 300)
        packing, ordered = pack(lengths, 32), np.sort(lengths)[::-1]
        used = np.zeros((packing.count, 32), int)
        for row, start, length in zip(packing.rows, packing.starts, ordered, strict=True):
            used[row, start : start + length] += 1
        assert used.max() == 1
        assert used.sum() == lengths.sum()


def test_resuming_yields_the_batches_that_would_have_followed():
    documents = random_documents(LENGTHS * 4)
    make = lambda: PackedLoader(documents, 3, 16, seed=5)  # noqa: E731
    whole = list(itertools.islice(groups(make(), size=1), 17))
    for taken in (1, 6, 12):
        rest = itertools.islice(groups(make(), size=1, start=whole[taken - 1].position), 4)
        for group, expected in zip(rest, whole[taken:], strict=False):
            jax.tree.map(np.testing.assert_array_equal, group.batches, expected.batches)


def test_processes_share_the_rows_of_a_batch(monkeypatch):
    documents = random_documents(LENGTHS * 4)
    whole = list(PackedLoader(documents, 4, 16, drop_last=True))
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        parts.append(list(PackedLoader(documents, 4, 16, drop_last=True, per_process=True)))
    for batch, first, second in zip(whole, *parts, strict=True):
        for name in batch:
            joined = np.concatenate([first[name], second[name]])
            np.testing.assert_array_equal(batch[name], joined)


def test_segments_split_and_join_any_arrays():
    documents = random_documents(LENGTHS)
    batch = next(iter(PackedLoader(documents, 3, 16)))
    segments = Segments.of(batch["segment_ids"])
    arrays = {"a": np.random.default_rng(0).normal(size=(3, 16, 5)), "b": batch["input_ids"]}
    split = segments.split(arrays)
    assert split["a"].shape == (len(segments.rows), segments.lengths.max() + 1, 5)
    inside = batch["segment_ids"] != 0
    for name, array in segments.join(split).items():
        np.testing.assert_array_equal(array[inside], arrays[name][inside])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: PackedLoader(d, 2, 8), "A document of 16 tokens does not fit a row of 8"),
        (lambda d: PackedLoader(d, 0, 16), "batch_size 0"),
        (lambda d: PackedLoader(d, 99, 16, drop_last=True), "batch_size 99 for 5 rows"),
        (lambda d: PackedLoader(d.take([]), 1, 16), "for 0 rows"),
    ],
)
def test_loaders_that_cannot_be_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make(random_documents(LENGTHS))
