"""Jobs with ``data.validation``: the best checkpoint is kept, patience ends, signals save."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxbrewer.cli import main
from jaxbrewer.configs import DataConfig
from jaxbrewer.models import load_bert
from jaxbrewer.run.results import read_results
from jaxbrewer.text import Tokenizer, Truncation, read_examples
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.classification import Classification
from jaxbrewer.text.tokenize import saved_max_length
from tests.cli.conftest import run
from tests.pages import form, page_block


def short(job, *words):
    """A training of a few steps, with a checkpoint after each two."""
    return [
        str(job), "--teacher.optimization.num_steps", "8", "--training.ckpt_steps", "2",
        "--teacher.frozen", "[]", *map(str, words),
    ]  # fmt: skip


def lowering(monkeypatch, *accuracies):
    """Makes the validation see these accuracies, one at each checkpoint."""
    left = list(accuracies)
    monkeypatch.setattr(
        "jaxbrewer.text.validation.Validation.__call__",
        lambda self, model, step: {"accuracy": left.pop(0), "loss": step / 10},
    )


@pytest.mark.slow
def test_the_best_checkpoint_is_the_saved_model(job, data, tmp_path, monkeypatch):
    lowering(monkeypatch, 0.5, 0.75, 0.75, 0.25)
    words = ["--data.validation", data / "test.jsonl", "--training.keep_last", 1, "--data.test="]
    printed = run("train", *short(job, *words))
    assert "validation   32 texts of" in printed
    assert "the best accuracy (max) is kept" in printed
    assert "The best of 4 checkpoints is that of step 4: accuracy 0.7500 on" in printed
    teacher = tmp_path / "run" / "teacher"
    assert sorted(path.name for path in (teacher / "checkpoints").iterdir()) == ["4", "8"]
    training = read_results(teacher)["training"]
    assert training["best_step"] == 4
    inspected = run("inspect", tmp_path / "run" / "teacher")
    assert "model, of step 4, the best checkpoint" in inspected
    assert [row["step"] for row in training["validation"]] == [2, 4, 6, 8]
    assert training["validation"][1] == {"step": 4, "accuracy": 0.75, "loss": 0.4}
    whole = load_file(teacher / "model" / "model.safetensors")
    lowering(monkeypatch, 0.25, 0.75, 0.75, 0.25)
    words += ["--training.overwrite", "true", "--training.patience", 1]
    printed = run("train", *short(job, *words))
    assert "ends once 1 in a row are no better" in printed
    assert "The training stopped after step 6 of 8" in printed
    page = page_block("command-line.md", "The training stopped").splitlines()
    first = next(n for n, line in enumerate(printed.splitlines()) if line.startswith(page[0][:12]))
    assert [*map(form, printed.splitlines()[first : first + 2])] == [*map(form, page)]
    training = read_results(teacher)["training"]
    assert (training["steps"], training["planned_steps"], training["best_step"]) == (6, 8, 4)
    stopped = load_file(teacher / "model" / "model.safetensors")
    for name, array in stopped.items():  # both are the weights after step 4
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


@pytest.mark.slow
def test_validation_scores_the_checkpoint_on_its_texts(job, data, tmp_path):
    words = ["--data.validation", data / "test.jsonl", "--training.best_metric", "loss"]
    frozen = ["--teacher.frozen", "[bert.embeddings]"]
    printed = run("train", *short(job, *words, *frozen))
    assert "the best loss (min) is kept" in printed
    teacher = tmp_path / "run" / "teacher"
    results = read_results(teacher)
    task, examples = Classification(DataConfig(max_length=8)), read_examples(data / "test.jsonl")
    encoded = task.encode(Tokenizer(teacher / "model"), examples)
    found = run_model(task, load_bert(teacher / "model"), encoded).predictions
    scores = task.score(examples, encoded, found)
    best = min(results["training"]["validation"], key=lambda row: row["loss"])
    assert best["step"] == results["training"]["best_step"]
    assert best["loss"] == pytest.approx(scores["loss"], rel=1e-4)
    assert results["rows"]["teacher"]["metrics"]["loss"] == pytest.approx(scores["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "extra"), [("balanced", 0), ("{cat: 3}", 2)])
def test_class_weights_are_in_the_sum_and_in_the_count(weights, extra, job, data, tmp_path):
    words = ["--teacher.optimization.num_steps", 1, "--teacher.optimization.batch_size", 144]
    words += ["--data.class_weights", weights, "--data.label_smoothing", 0.2, "--data.test="]
    printed = run("train", job, *words)
    assert re.search(r"labels' loss +class weights cat \S+, dog \S+, fox \S+; label smoo", printed)
    (line,) = (tmp_path / "run" / "teacher" / "metrics.jsonl").read_text().splitlines()
    rows = (data / "train.tsv").read_text().splitlines()[1:]
    cats = sum(row.startswith("cat") for row in rows)
    assert json.loads(line)["count_hard_label_loss"] == pytest.approx(144 + extra * cats, rel=1e-5)


def test_the_length_of_the_training_is_saved_with_the_tokenizer(data, tmp_path):
    Tokenizer(data / "base").save(tmp_path, Truncation(7))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 7
    Tokenizer(tmp_path).save(tmp_path / "copy")
    assert saved_max_length(tmp_path / "copy") == 7
    assert saved_max_length(data / "base") is None
    for length in (1e30, 10**30, True, "8", 2):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
        assert saved_max_length(tmp_path) is None


@pytest.mark.slow
def test_an_evaluation_cuts_texts_as_the_training_did(job, data, tmp_path):
    words = ["--data.max_length", 4, "--teacher.optimization.num_steps", 1, "--data.test="]
    run("train", job, *words)
    model = tmp_path / "run" / "teacher" / "model"
    default, whole = (
        run("evaluate", model, data / "test.jsonl", *more) for more in ([], ["--max-length", 8])
    )
    assert "Texts that were cut to the maximum length" in default
    assert "were cut" not in whole


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data.validation", "nowhere.tsv"], "nowhere.tsv does not exist"),
        (["--training.patience", "0"], "patience must be an int >= 1"),
        (["--training.patience", "2"], "best_metric must be the name of a metric, as patience"),
        (["--data.validation", __file__, "--training.ckpt_frequency", "0"], "needs checkpoints"),
        (["--data.validation", "[1]"], "validation must be a name or null"),
        (["--data.validation", "x.tsv", "--data.task", "embeddings"], "no metrics of single texts"),
    ],
)
def test_bad_input_is_one_line(job, words, says, capsys):
    assert main(["train", str(job), *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_metric_that_no_checkpoint_has_is_refused_before_the_training(
    job, data, monkeypatch, capsys
):
    monkeypatch.setattr("jaxbrewer.text.training.TextTraining.train", None)
    words = ["--data.validation", data / "test.jsonl", "--training.best_metric", "accurcy"]
    assert main(["train", str(job), *map(str, words)]) == 2
    assert "best_metric 'accurcy' is neither returned by the callback" in capsys.readouterr().err


SIGNALLED = (
    "import os, signal, sys\n"
    "import {module} as place\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # may be ignored by our parent
    "original = place.{function}\n"
    "def strike(*given, **named):\n"
    "    answer = original(*given, **named)\n"
    "    os.kill(os.getpid(), {signal})\n"
    "    return answer\n"
    "place.{function} = strike\n"
    "from jaxbrewer.cli import main\n"
    "sys.exit(main())"
)


def signalled(module, function, number, *words):
    """Runs a command that gets a signal whenever it has called a function."""
    code = SIGNALLED.format(module=module, function=function, signal=int(number))
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_from_which_a_training_resumes(job, tmp_path):
    words = short(job, "--training.ckpt_steps", 8, "--data.test=")
    done = signalled("jaxbrewer.run.step_log", "StepLog.add", signal.SIGINT, "train", *words)
    assert done.returncode == 130, done.stderr
    teacher = tmp_path / "run" / "teacher"
    assert f"Ctrl-C: step 1 is saved in {teacher}; --resume continues" in done.stderr
    assert done.stderr.endswith("jaxbrewer: interrupted\n")
    assert os.listdir(teacher / "checkpoints") == ["1"]
    run("train", *words, "--resume")
    assert read_results(teacher)["training"]["steps"] == 8


@pytest.mark.slow
def test_sigterm_while_the_texts_are_read_ends_with_143(job, tmp_path):
    module = "jaxbrewer.text.tasks.classification"
    done = signalled(module, "read_examples", signal.SIGTERM, "train", job)
    assert (done.returncode, done.stderr) == (143, "jaxbrewer: terminated\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigterm_while_a_cache_is_built_leaves_one_that_resumes(job, tmp_path):
    run("train", job, "--teacher.optimization.num_steps", 1, "--data.test=")
    words = ["cache", "build", job, "--training.cache_dir", tmp_path / "cache"]
    done = signalled("jaxbrewer.cache.writer", "CacheWriter.add", signal.SIGTERM, *words)
    assert (done.returncode, done.stderr) == (143, "jaxbrewer: terminated\n")
    assert "complete            yes" in run(*words)


@pytest.mark.slow
def test_other_settings_of_the_data_are_another_run(job, tmp_path, capsys):
    words = short(job, "--teacher.optimization.num_steps", 2, "--data.test=")
    run("train", *words)
    for change, says in {
        ("--data.class_weights", "balanced"): 'data.class_weights was null and is "balanced"',
        ("--data.label_smoothing", "0.1"): "data.label_smoothing was 0.0 and is 0.1",
        ("--data.max_length", "4"): "data.max_length was 8 and is 4; data.texts was",
    }.items():
        assert main(["train", *words, "--resume", *change]) == 2
        error = capsys.readouterr().err
        assert "holds a different run: " + says in error.splitlines()[-1]
    run("train", *words, "--resume", "--data.threshold", 0.25)
