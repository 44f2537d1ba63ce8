"""Checkpoints that are damaged, not kept, or cannot be written."""

import contextlib
import itertools
import os
import shutil
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run import orbax_files
from jaxbrewer.run.checkpoint_store import CheckpointStore
from jaxbrewer.run.retention import CheckpointInfo, kept_steps
from tests.recovery import assert_same, bits, left_behind, saved
from tests.recovery.test_resume import plain
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

pytestmark = pytest.mark.slow

STEPS = [3, 6, 9, 12]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four checkpoints, and what it returned."""
    place = tmp_path_factory.mktemp("finished")
    return place, plain(place)()


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def big_files(step):
    return [p for p in step.rglob("*") if p.is_file() and p.parent.name == "d"]


def flip(path, count=64):
    data = bytearray(path.read_bytes())
    places = np.random.default_rng(0).integers(len(data) // 4, len(data), count)
    for place in places:
        data[place] ^= 0xFF
    path.write_bytes(data)


def flip_all(step):
    for path in big_files(step):
        flip(path)


def flip_record(step):
    path = step / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace('"epoch": 3', '"epoch": 2'))


def truncate(pattern):
    def damage(step):
        for path in step.rglob(pattern):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)

    return damage


def remove(pattern):
    def damage(step):
        for path in list(step.rglob(pattern)):
            path.unlink()

    return damage


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = {
    "flipped bytes": flip_all,
    "a flipped digit in the position": flip_record,
    "truncated data": truncate("d/*"),
    "truncated manifests": truncate("manifest.ocdbt"),
    "truncated metadata": truncate("_METADATA"),
    "truncated record": truncate("_CHECKPOINT_METADATA"),
    "no data": remove("d/*"),
    "no manifests": remove("manifest.ocdbt"),
    "no metadata": remove("_METADATA"),
    "no record": remove("_CHECKPOINT_METADATA"),
    "an empty directory": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_skipped(damage, copy, finished):
    damage(copy / "run" / "checkpoints" / "12")
    with pytest.warns(UserWarning, match=r"step 12 .*damaged"):
        alone = jb.load_student(copy / "run")
    expected = jb.load_student(finished[0] / "run", 9)
    assert bits(alone) == bits(expected)
    with pytest.raises(jb.UsageError, match="step 12 in .* is damaged"):
        jb.load_student(copy / "run", 12)
    with pytest.warns(UserWarning, match="step 12 is damaged .* was moved to .*damaged/12"):
        actual = plain(copy, resume=True)()
    assert bits(actual.history) == bits(finished[1].history)
    assert_same(
        left_behind(finished[0] / "run", finished[0] / "logs"),
        left_behind(copy / "run", copy / "logs"),
    )
    assert (copy / "run" / "damaged" / "12").is_dir()


def test_several_damaged_checkpoints_are_skipped_and_no_good_one_is_an_error(copy, finished):
    for step in (9, 12):
        empty(copy / "run" / "checkpoints" / str(step))
    with pytest.warns(UserWarning, match="damaged") as warned:
        actual = plain(copy, resume=True)()
    assert len(warned) == 2
    assert bits(actual.history) == bits(finished[1].history)
    for step in STEPS:
        empty(copy / "run" / "checkpoints" / str(step))
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(jb.UsageError, match="No checkpoint of .* can be read .*overwrite=True"),
    ):
        plain(copy, resume=True)()
    with pytest.raises(jb.UsageError, match="has no checkpoint of step None"):
        jb.load_student(copy / "run")


def test_a_checkpoint_under_the_name_of_another_step_is_skipped(copy, finished):
    checkpoints = copy / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "12")
    (checkpoints / "9").rename(checkpoints / "10")
    (checkpoints / "007").mkdir()
    with pytest.warns(UserWarning, match="step 10 .* damaged: it was saved after step 9"):
        alone = jb.load_student(copy / "run")
    assert bits(alone) == bits(jb.load_student(finished[0] / "run", 6))
    with pytest.warns(UserWarning, match="step 10 is damaged .it was saved after step 9"):
        actual = plain(copy, resume=True)()
    assert bits(actual.history) == bits(finished[1].history)


def test_an_incomplete_checkpoint_is_ignored(copy, finished):
    """A process that is killed while saving leaves one."""
    checkpoints = copy / "run" / "checkpoints"
    (checkpoints / "12").rename(checkpoints / "12.orbax-checkpoint-tmp")
    (checkpoints / "12.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()
    assert plain(copy, resume=True)().student["first"]["bias"].shape == (3,)
    assert_same(left_behind(finished[0] / "run"), left_behind(copy / "run"))
    assert not (copy / "run" / "damaged").exists()


def test_checksums_find_flipped_bytes_that_orbax_does_not_notice(tmp_path):
    weights = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(200, 200)), jnp.float32)}
    student = jb.as_model((lambda params, x: x @ params["w"], weights))
    objective = jb.make_objective(jb.DistillationConfig())
    state = jb.init_train_state(student, objective, optax.sgd(0.1))
    with contextlib.closing(CheckpointStore(tmp_path)) as store:
        store.save(1, state, {"epoch": 0, "batch": 1})
        store.save(2, state, {"epoch": 0, "batch": 2})
        step = tmp_path / "checkpoints" / "2"
        assert store.steps() == [1, 2]
        largest = max(step.rglob("*"), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
        assert bits(saved(step)["student"]) != bits(store.load(1, state).state.params)
        with pytest.raises(
            orbax_files.DamagedError, match="checksum of student/params/w does not match"
        ):
            store.load(2, state)
        with pytest.warns(UserWarning, match="step 2 is damaged"):
            assert store.restore(state).step == 1


def test_a_state_of_another_shape_is_named(copy):
    train = plain(copy, resume=True, force_resume=True, student=(mlp, mlp_params(4)))
    with pytest.raises(
        jb.UsageError, match=r"is float32\[3\] there and float32\[4\] here; .* more"
    ):
        train()


# -- retention ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [3, 6, 9, 12]),
        ({"keep_last": 1}, [12]),
        ({"keep_last": 2}, [9, 12]),
        ({"keep_every": 2, "keep_last": 1}, [6, 12]),
        ({"keep_every": 3}, [9, 12]),
        ({"keep_best": 1, "best_metric": "accuracy"}, [6, 12]),
        ({"keep_best": 2, "best_metric": "accuracy", "best_mode": "min"}, [3, 12]),
    ],
)
def test_checkpoints_are_kept_as_the_config_says(settings, kept, tmp_path):
    scores = {3: 0.1, 6: 0.9, 9: 0.5, 12: 0.3}

    def score(model, step):
        return {"accuracy": scores[step]}

    plain(tmp_path, **settings)(callback=score)
    assert left_behind(tmp_path / "run")["checkpoints"] == kept


def test_the_best_checkpoints_may_be_chosen_by_a_training_metric(tmp_path):
    history = plain(tmp_path, keep_best=1, best_metric="total_loss")().history["total_loss"]
    best = max(STEPS, key=lambda step: history[step - 1])
    assert left_behind(tmp_path / "run")["checkpoints"] == sorted({best, 12})


def test_a_best_metric_that_cannot_exist_is_refused_before_the_first_step(tmp_path):
    config = quiet(output_dir=tmp_path / "run", ckpt_steps=3, keep_best=1, best_metric="f1")
    trainer = jb.BasicTrainer(config, (mlp, mlp_params(3)), logits_adaptor)
    data = optax.sgd(0.1), jb.ArrayLoader(vector_data(24), 8)
    message = "best_metric 'f1' is neither .* nor a metric of the step: .*grad_norm"
    for method in (trainer.check, trainer.train):
        with pytest.raises(jb.UsageError, match=message):
            method(*data, num_steps=6)
        assert not (tmp_path / "run" / "manifest.json").exists()
    trainer.check(*data, num_steps=6, callback=lambda model, step: {"f1": 0.5})
    with pytest.raises(jb.UsageError, match=message.replace("grad_norm", "f2")):
        trainer.train(*data, num_steps=6, callback=lambda model, step: {"f2": 0.5})


def test_removing_after_each_checkpoint_equals_removing_once_at_the_end():
    rng = np.random.default_rng(0)
    for last, every, best in itertools.product([None, 1, 3], [None, 2], [None, 1, 2]):
        config = jb.TrainingConfig(
            keep_last=last, keep_every=every, keep_best=best, best_metric="score"
        )
        entries = [CheckpointInfo(5 * number, number) for number in range(1, 9)]
        scores = {entry.step: float(rng.integers(0, 4)) for entry in entries}
        there: list[CheckpointInfo] = []
        for entry in entries:
            there.append(entry)
            kept = kept_steps(there, config, scores)
            there = [entry for entry in there if entry.step in kept]
        assert {entry.step for entry in there} == kept_steps(entries, config, scores)


# -- files that cannot be written -----------------------------------------------------------------


def test_a_failed_save_warns_once_and_damages_nothing(tmp_path, monkeypatch, capfd):
    save, calls = orbax_files.ocp.save_checkpointables, []

    def full(path, *arguments, **options):
        calls.append(int(Path(path).name))
        if calls[-1] in (6, 9):
            Path(f"{path}.orbax-checkpoint-tmp").mkdir()
            raise ValueError(
                'RESOURCE_EXHAUSTED: Failed writing: "/x/6": Failed to write 9 bytes to file 5: '
                "No space left on device [os_error_code='28']"
            )
        save(path, *arguments, **options)

    monkeypatch.setattr(orbax_files.ocp, "save_checkpointables", full)
    with pytest.warns(UserWarning, match="step 6 could not be written.*: No space left") as warned:
        result = plain(tmp_path, keep_last=2)()
    assert len(warned) == 1
    assert "complete checkpoints: [3]" in str(warned[0].message)
    assert calls == STEPS
    assert left_behind(tmp_path / "run")["checkpoints"] == [3, 12]
    assert len(result.history["step"]) == 12
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_on_a_full_disk_warns_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.warns(UserWarning, match="metrics.jsonl could not be written: No space") as warned:
        result = plain(tmp_path)()
    assert len(warned) == 1
    assert len(result.history["step"]) == 12
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["12", "3", "6", "9"]


def test_a_directory_that_cannot_hold_checkpoints_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(jb.UsageError, match="cannot hold checkpoints"):
        plain(tmp_path)()
    (tmp_path / "file").write_text("")
    with pytest.raises(jb.UsageError, match="file/events.* cannot be written: File exists"):
        jb.BasicTrainer(
            jb.TrainingConfig(output_dir=None, log_dir=tmp_path / "file", progress=False),
            (lambda params, x: x * params, jnp.ones(4)),
            lambda batch, outputs: {"losses": outputs.sum()},
        ).train(optax.sgd(0.1), [{"x": np.ones(4)}], num_epochs=1)


def test_a_bug_in_saving_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_files.ocp, "save_checkpointables", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plain(tmp_path)()
    with warnings.catch_warnings(), contextlib.closing(CheckpointStore(tmp_path / "run")) as store:
        assert store.steps() == []
