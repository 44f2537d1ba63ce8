"""Caches on disk: building, resuming, sharing, damage, and other caches."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.cache import Manifest, Storage, TeacherCache, build_cache, database, with_outputs
from jaxbrewer.cache import writer as building
from jaxbrewer.checksums import fingerprint
from jaxbrewer.step.teachers import make_teacher_step

CLASSES, WORDS, EXAMPLES = 30, 50, 60
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(2, 12, EXAMPLES)
TEXTS = [RNG.integers(1, WORDS, length).astype(np.int32) for length in LENGTHS]
PARAMS = {
    "embedding": RNG.normal(size=(WORDS, 8)).astype(np.float32),
    "head": RNG.normal(size=(8, CLASSES)).astype(np.float32),
}
MATCH = {"layer_T": -1, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}


def model(params, input_ids):
    hidden = params["embedding"][input_ids]
    return {"logits": hidden @ params["head"], "hidden": [hidden, 2 * hidden, 3 * hidden]}


def adaptor(batch, outputs):
    mask = batch["attention_mask"]
    return {**outputs, "logits_mask": mask, "inputs_mask": mask, "losses": outputs["logits"]}


def batches(size=8, order=range(EXAMPLES), *, ids=True, texts=TEXTS):
    """Padded to the longest of the batch, rounded up to 4."""
    made, order = [], list(order)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        width = -(-max(len(texts[row]) for row in rows) // 4) * 4
        batch = {name: np.zeros((len(rows), width), np.int32) for name in ("input_ids", "mask")}
        batch["attention_mask"] = batch.pop("mask")
        for row, example in enumerate(rows):
            batch["input_ids"][row, : len(texts[example])] = texts[example]
            batch["attention_mask"][row, : len(texts[example])] = 1
        batch["labels"] = np.zeros(len(rows), np.int32)
        if ids:
            batch["example_id"] = np.array(rows)
        made.append(batch)
    return made


def build(directory, loader=None, **settings):
    return build_cache(directory, (model, PARAMS), adaptor, loader or batches(), **settings)


def expected(rows):
    """The teacher's outputs for each of these examples at its valid positions."""
    outputs = [model(PARAMS, TEXTS[row][None]) for row in rows]
    return [x["logits"][0] for x in outputs], [x["hidden"][-1][0] for x in outputs]


def cached_logits(cache, batch):
    """The cached logits of each example at its valid positions."""
    outputs = cache.outputs(batch)
    masks = batch["attention_mask"] != 0
    np.testing.assert_array_equal(outputs.logits_mask[0], batch["attention_mask"])
    return [logits[mask] for logits, mask in zip(outputs.logits[0], masks, strict=True)]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    directory = tmp_path_factory.mktemp("full")
    config = jb.DistillationConfig(intermediate_matches=[MATCH])
    build(directory, config=config, fingerprints={"data": "abc"})
    return directory


@pytest.mark.parametrize("ids", [True, False], ids=["by number", "by content"])
def test_examples_get_their_own_outputs_in_any_order_and_batch_size(full, tmp_path, ids):
    """EasyDistill finds outputs by step, so that a shuffle pairs each example with another's."""
    directory = full
    if not ids:
        directory = tmp_path / "cache"
        build(directory, batches(ids=False))
    cache = TeacherCache(directory)
    seen = set()
    for size, seed in ((8, 1), (1, 2), (7, 3), (60, 4)):
        order = np.random.default_rng(seed).permutation(EXAMPLES)[: 3 * size]
        for batch, rows in zip(
            batches(size, order, ids=ids), np.array_split(order, range(size, len(order), size)),
            strict=True,
        ):  # fmt: skip
            for ours, theirs in zip(cached_logits(cache, batch), expected(rows)[0], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            seen |= set(rows.tolist())
    assert len(seen) == EXAMPLES


def test_only_needed_layers_are_kept(full):
    cache = TeacherCache(full)
    batch = batches()[2]
    first, second, third = cache.outputs(batch).features["hidden"]
    assert first is None
    assert second is None
    mask = batch["attention_mask"] != 0
    hidden = expected(batch["example_id"])[1]
    np.testing.assert_allclose(third[mask], np.concatenate(hidden), rtol=1e-6)
    cache.require_holds(jb.DistillationConfig(intermediate_matches=[MATCH]))
    other = jb.DistillationConfig(intermediate_matches=[{**MATCH, "layer_T": 1}])
    with pytest.raises(jb.UsageError, match="holds no layer 1 of 'hidden'"):
        cache.require_holds(other)
    with pytest.raises(jb.UsageError, match="holds no layer 1 of 'hidden'"):
        build(full, config=other, fingerprints={"data": "abc"})


def test_the_message_names_what_differs(full):
    manifest = Manifest.read(full)
    same = {"teacher": fingerprint({"params": PARAMS, "state": {}}), "data": "abc", "other": "x"}
    TeacherCache(full, fingerprints=same, settings={"precision": "as given", "args": {}})
    changed = {**PARAMS, "head": PARAMS["head"] + 1e-6}
    other = {"teacher": fingerprint({"params": changed, "state": {}}), "data": "abd"}
    with pytest.raises(jb.UsageError) as refused:
        TeacherCache(full, fingerprints=other, settings={"precision": "float16"})
    for part in ("teacher (fingerprint", "data (fingerprint abc", "precision ('as given' in the"):
        assert part in str(refused.value)
    with pytest.raises(jb.UsageError, match="differs in: teacher"):
        build_cache(full, (model, changed), adaptor, batches())
    with pytest.raises(jb.UsageError, match="stored as {'kind': 'full'}, not as {'kind': 'float16"):
        build(full, storage=Storage("float16"))
    assert build(full, fingerprints={"data": "abc"}) == manifest  # a finished cache is left alone


def test_changed_examples_are_refused(full):
    batch = batches()[0]
    batch["input_ids"][3, 0] += 1
    with pytest.raises(jb.UsageError, match="example 3 is not the one that"):
        TeacherCache(full).outputs(batch)
    batch["example_id"][3] = 99
    with pytest.raises(jb.UsageError, match="example 99 is not in the teacher cache"):
        TeacherCache(full).outputs(batch)
    del batch["example_id"]
    with pytest.raises(jb.UsageError, match="identifies examples by 'example_id'"):
        TeacherCache(full).outputs(batch)


def test_one_number_for_two_examples_is_refused(tmp_path):
    loader = batches()
    loader[1]["example_id"][0] = 0
    with pytest.raises(jb.UsageError, match="example 0 has two different contents"):
        build(tmp_path / "cache", loader)


def test_labels_do_not_identify_examples(full):
    batch = batches()[0]
    batch["labels"] += 1
    assert len(TeacherCache(full).outputs(batch).logits[0]) == 8


KILLED = """
import os, signal, sys
from tests.cache import test_disk
from jaxbrewer.cache import writer

writer._COMMIT_EXAMPLES = 8

def loader():
    for number, batch in enumerate(test_disk.batches()):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

test_disk.build(sys.argv[1], loader())
"""


@pytest.mark.slow
def test_a_killed_build_resumes(full, forks, tmp_path):
    directory = tmp_path / "cache"
    killed = forks.run("-c", KILLED, directory)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(jb.UsageError, match="is not complete: build it again"):
        TeacherCache(directory)
    there = len(building.RecordDatabase(directory / building.RECORDS).keys())
    assert 8 <= there < EXAMPLES
    rows = []

    def counted(params, input_ids):
        jax.debug.callback(lambda: rows.append(input_ids.shape[0]))
        return model(params, input_ids)

    manifest = build_cache(directory, (counted, PARAMS), adaptor, batches())
    jax.effects_barrier()
    assert sum(rows) == EXAMPLES - there
    assert manifest.complete
    assert manifest.examples == EXAMPLES
    batch = batches(EXAMPLES)[0]
    one, other = (TeacherCache(path).outputs(batch).logits[0] for path in (directory, full))
    np.testing.assert_array_equal(one, other)


def test_an_interrupted_build_on_changed_data_is_refused(tmp_path):
    def stopped():
        yield from batches()[:3]
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_COMMIT_EXAMPLES", 1)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, stopped())
    changed = [text + 0 for text in TEXTS]
    changed[4][1] = changed[4][1] % (WORDS - 1) + 1
    with pytest.raises(jb.UsageError, match="example 4 has two different contents: the data have"):
        build(tmp_path, batches(texts=changed))
    assert build(tmp_path).examples == EXAMPLES


def test_a_build_resumes_only_with_the_same_outputs(tmp_path):
    build(tmp_path, part=(0, 2))
    config = jb.DistillationConfig(intermediate_matches=[MATCH])
    with pytest.raises(jb.UsageError, match="started with logits/0, not with logits/0, hidden/2"):
        build(tmp_path, part=(1, 2), config=config)
    (tmp_path / "manifest.json").unlink()
    for path in tmp_path.glob("part-*"):
        path.unlink()
    with pytest.raises(jb.UsageError, match="has records but no manifest"):
        build(tmp_path)


@pytest.mark.parametrize(
    "name", ["%41", "%", "?", "#", " ", "ü日", "'", '"', "|", "*", "a/../b", "."]
)
def test_records_are_written_below_a_directory_of_any_name(name, tmp_path):
    directory = tmp_path / f"x{name}y" / "cache"
    (tmp_path / "xa").mkdir()
    records = database.RecordDatabase(directory / "records", create=True)
    records.wait(records.write({b"key": b"value" * 100}))
    assert (directory / "records" / "manifest.ocdbt").is_file()
    assert database.RecordDatabase(directory / "records").read([b"key"]) == [b"value" * 100]


@pytest.mark.parametrize("name", ["back\\slash", "nul\0", "\ud800", "n" * 300, "file/inner"])
def test_impossible_directories_are_refused_in_one_line(name, tmp_path):
    (tmp_path / "file").write_text("")
    for use in (build, TeacherCache):
        with pytest.raises(jb.UsageError) as error:
            use(tmp_path / name)
        assert str(error.value).isprintable()


FULL = """
import resource, sys
import jax
from jaxbrewer import UsageError
from tests.cache import test_disk
from jaxbrewer.cache import writer

jax.config.update("jax_enable_compilation_cache", False)  # its files would be cut, too
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
writer._COMMIT_EXAMPLES = 8
try:
    test_disk.build(sys.argv[1])
except UsageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [100, 2000, 5000])
def test_a_build_on_a_full_disk_is_one_line_and_resumes(full, room, tmp_path):
    """A limit on the size of files stands for the disk."""
    directory = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(directory), str(room)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert "cannot be written: File too large" in line
    assert build(directory).examples == EXAMPLES
    (batch,) = batches(EXAMPLES)
    one, other = (TeacherCache(path).outputs(batch).logits[0] for path in (directory, full))
    np.testing.assert_array_equal(one, other)


def test_several_processes_build_one_cache(full, tmp_path):
    """Each knows only its own part."""
    first = build(tmp_path, part=(1, 2))
    assert not first.complete
    with pytest.raises(jb.UsageError, match="not complete"):
        TeacherCache(tmp_path)
    second = build(tmp_path, part=(0, 2))
    assert second.complete
    assert second.examples == EXAMPLES
    whole = Manifest.read(full).report["positions"]
    assert second.report["positions"] == whole
    batch = batches(EXAMPLES)[0]
    one, other = (TeacherCache(path).outputs(batch).logits[0] for path in (tmp_path, full))
    np.testing.assert_array_equal(one, other)


def test_concurrent_writers_lose_nothing(tmp_path):
    stores = [building.RecordDatabase(tmp_path, create=True) for _ in range(2)]
    commits = [
        stores[number % 2].write({bytes([number, row]): bytes([row]) * 300 for row in range(20)})
        for number in range(20)
    ]
    for commit in commits:
        commit.result()
    assert len(building.RecordDatabase(tmp_path).keys()) == 400


def test_what_a_killed_writer_left_in_a_lock_file_does_not_stay_in_the_database(tmp_path):
    records = database.RecordDatabase(tmp_path, create=True)
    records.wait(records.write({b"a": b"1"}))
    (tmp_path / "manifest.ocdbt.__lock").write_bytes(b"half a root" * 1000)
    records.wait(records.write({b"b": b"2"}))
    assert database.RecordDatabase(tmp_path).read([b"a", b"b"]) == [b"1", b"2"]


def test_damaged_records_are_named(tmp_path):
    build(tmp_path)
    assert not list(TeacherCache(tmp_path).damaged())
    largest = max((tmp_path / "records").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 3] ^= 0xFF
    largest.write_bytes(content)
    cache = TeacherCache(tmp_path)
    damaged = list(cache.damaged())
    assert 1 <= len(damaged) <= EXAMPLES
    (batch,) = batches(EXAMPLES)
    with pytest.raises(jb.UsageError, match="damaged"):
        cache.outputs(batch)


@pytest.mark.parametrize(
    ("storage", "most"), [(Storage("float16"), 1e-5), (Storage("top_k", k=4, bits=8), 1e-3)]
)
def test_sizes_and_errors_are_reported(tmp_path, storage, most):
    report = build(tmp_path, storage=storage).report
    assert report["positions"] == LENGTHS.sum()
    assert report["float32_bytes_per_position"] == 4 * (CLASSES + 2)
    exact = build(tmp_path.with_name("exact"), storage=Storage("top_k", k=4, bits=32)).report
    logits = np.concatenate(expected(range(EXAMPLES))[0]).astype(np.float64)
    assert 0 < report["kl"] < most
    assert exact["kl"] < 1e-12
    p = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    tail = 1 - np.sort(p, axis=-1)[:, -4:].sum(-1)
    np.testing.assert_allclose(exact["tail"], tail.mean(), rtol=1e-5)
    size = sum(path.stat().st_size for path in (tmp_path / "records").rglob("*") if path.is_file())
    written = report["bytes_per_example"] * EXAMPLES
    assert size <= written + 40 * EXAMPLES + 4000


def test_other_directories_are_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(jb.UsageError, match="is neither empty nor a teacher cache"):
        build(tmp_path)
    with pytest.raises(jb.UsageError, match="holds no teacher cache"):
        TeacherCache(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(jb.UsageError, match="is not valid JSON.* Remove the cache and build it"):
        TeacherCache(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(jb.UsageError, match="has the format 9; this version reads 1"):
        TeacherCache(tmp_path)


@pytest.mark.slow
def test_a_custom_loop_gets_the_live_teachers_loss_without_a_teacher(full):
    cache, batch = TeacherCache(full), batches()[1]
    objective = jb.make_objective(jb.DistillationConfig(temperature=3))
    student = jb.as_model((model, jax.tree.map(lambda x: 0.5 * x, PARAMS)))
    optimizer = jb.make_optimizer(optax.sgd(0.1), objective)
    losses = []
    for teacher, own in ((None, with_outputs(batch, cache)), (jb.as_model((model, PARAMS)), batch)):
        step = jb.make_train_step(
            student, teacher, objective, optimizer, adaptor_S=_student_adaptor, adaptor_T=adaptor
        )
        state = jb.init_train_state(student, objective, optimizer)
        _, metrics = jax.jit(step)(state, teacher and teacher.variables, own)
        losses.append(float(metrics["unweighted_kd_loss"]))
    np.testing.assert_allclose(*losses, rtol=1e-6)


def _student_adaptor(batch, outputs):
    return {"logits": outputs["logits"], "logits_mask": batch["attention_mask"]}


def test_a_teacher_without_logits_is_refused(tmp_path):
    with pytest.raises(jb.UsageError, match="nothing to cache"):
        build_cache(tmp_path, (model, PARAMS), lambda batch, outputs: {}, batches())


def test_cached_outputs_are_the_teacher_steps_bit_for_bit(full):
    teacher = jb.as_model((model, PARAMS))
    step = jax.jit(make_teacher_step(teacher, adaptor))
    batch = batches()[3]
    mask = batch["attention_mask"] != 0
    batch_T = {name: x for name, x in batch.items() if name != "example_id"}
    live = np.asarray(step(teacher.variables, batch_T).logits[0])[mask]
    np.testing.assert_array_equal(TeacherCache(full).outputs(batch).logits[0][mask], live)


def test_a_build_leaves_no_temporary_files(tmp_path):
    build(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
