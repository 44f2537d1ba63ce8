"""Run directories: refusals, removal, and untrusted files."""

import json
import shutil

import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.cache import build_cache
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

TEACHER = (mlp, mlp_params(8, seed=1))
DATA = vector_data(16)


def train(directory, *, model=mlp, callback=None, **settings):
    settings = {"output_dir": directory / "run", "log_dir": directory / "logs", **settings}
    trainer = jb.BasicTrainer(quiet(**settings), (model, mlp_params(3)), logits_adaptor)
    return trainer.train(optax.sgd(0.1), jb.ArrayLoader(DATA, 8), num_steps=2, callback=callback)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    train(directory)
    return directory


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


DAMAGED = {
    "a list": "[1]",
    "null": "null",
    "a string": '"run"',
    "no entries": "{}",
    "half": '{"run": "0123',
    "a number for the name": '{"run": 3}',
    "a pattern for the name": '{"run": "*"}',
    "a path for the name": '{"run": "../../abcd"}',
    "resumed is no list": '{"run": "0123456789ab", "resumed": {"a": 1}}',
    "resumed holds numbers": '{"run": "0123456789ab", "resumed": [1]}',
    "deep": "[" * 5000,
    "many digits": '{"run": ' + "9" * 5000 + "}",
    "a key twice": '{"run": "0123456789ab", "run": "0123456789ab"}',
    "escape sequences": '{"run": "\\u001b[2J\\n"}',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["manifest.json", "config.json"])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line_whose_remedy_works(content, file, copy):
    events = copy / "logs" / "events.out.tfevents.1.host.other"
    events.write_text("precious")
    content = content if isinstance(content, bytes) else content.encode()
    (copy / "run" / file).write_bytes(content)
    with pytest.raises(jb.UsageError, match=r"overwrite=True|a different run") as error:
        train(copy, resume=True)
    assert str(error.value).isprintable()
    train(copy, overwrite=True)
    assert events.read_text() == "precious"
    assert train(copy, resume=True).history["step"].tolist() == [1, 2]


def test_overwriting_removes_the_runs_own_files_only(copy):
    (copy / "run" / "notes.txt").write_text("precious")
    elsewhere = copy / "elsewhere"
    (copy / "run" / "checkpoints").rename(elsewhere)
    (copy / "run" / "checkpoints").symlink_to(elsewhere)
    (before,) = (copy / "logs").iterdir()
    other = before.with_name("events.out.tfevents.1.host.0123456789ab")
    other.write_text("precious")
    train(copy, overwrite=True)
    assert (copy / "run" / "notes.txt").read_text() == other.read_text() == "precious"
    assert [path.name for path in elsewhere.iterdir()] == ["2"]
    assert not before.exists()
    assert len(list((copy / "logs").iterdir())) == 2


def test_a_removal_that_was_interrupted_is_noticed(copy):
    """The manifest is removed last, and a run is never started beside what another left."""
    shutil.rmtree(copy / "run" / "checkpoints")
    with pytest.raises(jb.UsageError, match="already holds a run"):
        train(copy)
    (copy / "run" / "manifest.json").unlink()
    for settings in ({}, {"resume": True}):
        with pytest.raises(jb.UsageError, match=r"holds metrics.jsonl and checkpoints.jsonl of a"):
            train(copy, **settings)
    assert train(copy, overwrite=True).history["step"].tolist() == [1, 2]


def broken(params, x):
    raise RuntimeError("the model has a bug")


def test_a_training_that_fails_before_its_first_step_leaves_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jb.UsageError, match="log_dir .* cannot be written: Not a directory"):
        train(tmp_path, log_dir=tmp_path / "file" / "logs")
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(jb.UsageError, match="metrics.jsonl cannot be written: Is a directory"):
        train(tmp_path)
    (tmp_path / "run" / "metrics.jsonl").rmdir()
    with pytest.raises(RuntimeError, match="the model has a bug"):
        train(tmp_path, model=broken)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, model=interrupted)
    assert not any((tmp_path / "logs").iterdir())
    assert train(tmp_path).history["step"].tolist() == [1, 2]


def interrupted(params, x):
    raise KeyboardInterrupt


def test_a_bad_log_dir_does_not_cost_the_run_that_would_be_replaced(copy):
    (copy / "file").write_text("")
    with pytest.raises(jb.UsageError, match="log_dir .* cannot be written"):
        train(copy, overwrite=True, log_dir=copy / "file")
    assert jb.load_student(copy / "run", 2)


@pytest.mark.parametrize("field", ["output_dir", "cache_dir", "log_dir"])
@pytest.mark.parametrize("name", ["nul\0", "\ud800", "n" * 300, "file/inner", "link", "link/inner"])
def test_impossible_paths_are_refused_in_one_line(field, name, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "missing")

    def run():
        fields = {"output_dir": tmp_path / "run", field: tmp_path / name}
        distiller = jb.BasicDistiller(
            quiet(**fields), jb.DistillationConfig(), TEACHER, (mlp, mlp_params(3)),
            logits_adaptor, logits_adaptor,
        )  # fmt: skip
        distiller.train(optax.sgd(0.1), jb.ArrayLoader(DATA, 8), num_steps=1)

    with pytest.raises(jb.UsageError) as error:
        run()
    assert str(error.value).isprintable()


@pytest.mark.parametrize("field", ["output_dir", "log_dir", "cache_dir"])
def test_an_empty_path_is_refused(field):
    with pytest.raises(jb.UsageError, match=f"TrainingConfig.{field} must be a path"):
        quiet(**{field: ""})


def test_a_directory_whose_backslash_would_become_a_slash_is_refused(tmp_path):
    """Orbax would write the arrays to ``a/b``, and the checkpoint could not be read."""
    with pytest.raises(jb.UsageError, match="holds a backslash"):
        train(tmp_path, output_dir=tmp_path / "a\\b")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_run_moves_together_with_its_cache(tmp_path):
    def run(place, **settings):
        config = quiet(output_dir=place / "run", cache_dir=place / "cache", **settings)
        distiller = jb.BasicDistiller(
            config, jb.DistillationConfig(), None, (mlp, mlp_params(3)), None, logits_adaptor
        )
        return distiller.train(optax.sgd(0.1), jb.ArrayLoader(DATA, 8), num_steps=2).history

    def build(place, teacher):
        build_cache(place, teacher, logits_adaptor, jb.ArrayLoader(DATA, 8).with_example_ids())

    build(tmp_path / "old" / "cache", TEACHER)
    expected = run(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    np.testing.assert_array_equal(
        run(tmp_path / "new", resume=True)["total_loss"], expected["total_loss"]
    )
    shutil.rmtree(tmp_path / "new" / "cache")
    build(tmp_path / "new" / "cache", (mlp, mlp_params(8, seed=2)))
    with pytest.raises(jb.UsageError, match="caches.* was .* and is"):
        run(tmp_path / "new", resume=True)


def test_the_manifest_is_plain_json(finished):
    manifest = json.loads((finished / "run" / "manifest.json").read_text())
    assert {"run", "seed", "jax", "started", "command", "devices"} <= manifest.keys()
