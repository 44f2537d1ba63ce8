"""A cache holds documents; rows that pack them get what their documents have."""

import jax
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.cache import Storage, TeacherCache, build_cache, cache_by_example, with_outputs
from jaxbrewer.cache.record_layout import StoredArray
from jaxbrewer.text import TextLoader
from jaxbrewer.text.documents import PackedLoader

from ..text.toy_language import causal_logits, causal_params, random_documents

LENGTHS = (3, 12, 7, 3, 2, 7, 16, 3, 2, 12)
PARAMS = causal_params()
DOCUMENTS = random_documents(LENGTHS, prompts=True)


def model(params, input_ids, segment_ids, position_ids):
    batch = {"input_ids": input_ids, "segment_ids": segment_ids, "position_ids": position_ids}
    return {"logits": causal_logits(params, batch)}


def adaptor(batch, outputs):
    return {**outputs, "logits_mask": batch["loss_mask"]}


def padded(size=3):
    return TextLoader(DOCUMENTS, size, num_widths=1)


def packed(width=16, seed=0):
    return PackedLoader(DOCUMENTS, 2, width, seed=seed)


def assert_as_live(cache_outputs, batch, **tolerance):
    """Cached logits are the live teacher's wherever the loss reads them."""
    live = causal_logits(PARAMS, batch)
    mask = cache_outputs.logits_mask[0] != 0
    np.testing.assert_array_equal(mask, batch["labels"] != -100)
    np.testing.assert_allclose(cache_outputs.logits[0][mask], live[mask], **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("without_ids", [False, True])
@pytest.mark.parametrize(("built", "read"), [(padded, packed), (packed, padded), (packed, packed)])
def test_any_arrangement_of_documents_reads_a_cache_of_any_other(
    tmp_path, built, read, without_ids
):
    def loader(made):
        for batch in made:
            yield {k: x for k, x in batch.items() if not (without_ids and k == "example_id")}

    report = build_cache(tmp_path, (model, PARAMS), adaptor, list(loader(built()))).report
    assert report["positions"] == DOCUMENTS.label_count
    cache = TeacherCache(tmp_path)
    assert len(cache.keys()) == len(LENGTHS)
    for batch in loader(read()):
        assert_as_live(cache.outputs(batch), batch, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_cache_of_documents_fits_rows_of_any_width_and_epoch(tmp_path):
    build_cache(tmp_path, (model, PARAMS), adaptor, padded(), storage=Storage("top_k", k=32))
    cache = TeacherCache(tmp_path)
    loader = packed(width=40, seed=3)
    for _ in range(2):
        for batch in loader:
            (kept,) = cache.outputs(batch).logits
            mask = batch["labels"] != -100
            live = np.take_along_axis(
                np.asarray(causal_logits(PARAMS, batch)), kept.indices, axis=-1
            )
            np.testing.assert_allclose(kept.logits[mask], live[mask], atol=0.2)


@pytest.mark.slow
def test_samples_of_the_tail_depend_on_the_example_alone(tmp_path):
    storage = Storage("sampled", k=3, samples=4)
    found = []
    for name, loader in (("a", padded(3)), ("b", padded(5))):
        build_cache(tmp_path / name, (model, PARAMS), adaptor, loader, storage=storage)
        batch = DOCUMENTS.batch([6, 1], 16) | {"example_id": np.array([6, 1])}
        found.append(TeacherCache(tmp_path / name).outputs(batch).logits[0])
    assert found[0].sampled
    assert found[0].indices.shape == (2, 16, 7)
    np.testing.assert_array_equal(found[0].indices, found[1].indices)
    np.testing.assert_allclose(found[0].logits, found[1].logits, rtol=1e-4)
    (mask,) = (batch["labels"] != -100,)
    log_p = jax.nn.log_softmax(causal_logits(PARAMS, batch))[mask]
    total = np.exp(found[0].logits[mask] - np.asarray(log_p).max(-1, keepdims=True)).sum(-1)
    assert np.isfinite(total).all()
    entry = TeacherCache(tmp_path / "a").manifest.layout["entries"][0]
    assert (entry["k"], entry["samples"]) == (3, 4)


def test_a_sampled_cache_takes_about_90_bytes_per_token_at_the_vocabulary_of_smollm2():
    entry = StoredArray(
        "logits/0", "float32", "top_k", "logits_mask/0", (), 20, 8, 49_152, (1.0,), 14
    )
    assert entry.packed == 89


@pytest.mark.slow
def test_the_cache_in_memory_holds_documents_too():
    outputs = jax.jit(lambda batch: jb.Outputs(**adaptor(batch, model(PARAMS, **parts(batch)))))

    def parts(batch):
        return {name: batch[name] for name in ("input_ids", "segment_ids", "position_ids")}

    runs = []
    with_cached = cache_by_example(packed(), lambda batch: runs.append(1) or outputs(batch))
    count = len(runs)
    for batch in packed(seed=4):
        assert_as_live(with_cached(batch)["teacher_cache"], batch, rtol=1e-5, atol=1e-6)
    assert len(runs) == count


def test_a_document_that_changed_is_refused(tmp_path):
    build_cache(tmp_path, (model, PARAMS), adaptor, padded())
    batch = next(iter(packed()))
    row, column = np.argwhere(batch["segment_ids"] == 1)[0]
    batch["input_ids"][row, column] += 1
    with pytest.raises(jb.UsageError, match=r"example \d+ is not the one"):
        TeacherCache(tmp_path).outputs(batch)


def test_outputs_without_positions_are_refused_for_packed_rows(tmp_path):
    def with_extra(batch, outputs):
        return {**adaptor(batch, outputs), "attention": [outputs["logits"][:, None]]}

    config = jb.DistillationConfig(
        intermediate_matches=[
            {"layer_T": 0, "layer_S": 0, "feature": "attention", "loss": "attention_mse",
             "weight": 1}
        ]
    )  # fmt: skip
    with pytest.raises(jb.UsageError, match=r"cached by document.*attention.* is \(2, 1, 16, 32\)"):
        build_cache(tmp_path, (model, PARAMS), with_extra, packed(), config=config)
    one_id = {**next(iter(packed())), "example_id": np.arange(2)}
    build_cache(tmp_path / "ok", (model, PARAMS), adaptor, padded())
    with pytest.raises(jb.UsageError, match="not the one|is not in"):
        with_outputs(one_id, TeacherCache(tmp_path / "ok"))
