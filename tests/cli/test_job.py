"""A whole job through ``main``: train, distill, evaluate, inspect."""

import dataclasses
import itertools
import json
import re
import shutil
import types
from pathlib import Path

import numpy as np
import optax
import pytest
import yaml
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

import jaxbrewer
from jaxbrewer.cli import main
from jaxbrewer.configs import DataConfig
from jaxbrewer.models import load_bert, save_bert
from jaxbrewer.models.model_directory import read_model_directory
from jaxbrewer.run.logs import read_events
from jaxbrewer.run.results import read_results
from jaxbrewer.text import Tokenizer, read_examples
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.classification import Classification, accuracy
from tests.cli.conftest import KINDS, run, texts, write_model
from tests.pages import page_block, page_output, require_form

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(content, tmp_path_factory):
    """The job, and what its commands printed."""
    place = tmp_path_factory.mktemp("job")
    training = {"progress": False, "output_dir": str(place / "run"), "log_dir": str(place / "log")}
    path = place / "job.json"
    path.write_text(json.dumps({**content, "training": training}))
    printed = {
        "check": run("train", path, "--dry-run"),
        "train": run("train", path),
        "distill": run("distill", path),
        "evaluate": run("evaluate", path),
        "inspect": run("inspect", place / "run"),
    }
    return types.SimpleNamespace(path=path, run=place / "run", log=place / "log", **printed)


@pytest.fixture(scope="module")
def shuffled(done, tmp_path_factory):
    """The teacher, its classes in another order."""
    directory = tmp_path_factory.mktemp("shuffled")
    shutil.copytree(done.run / "teacher" / "model", directory, dirs_exist_ok=True)
    model = load_bert(directory)
    head = model.classifier
    head.kernel[...], head.bias[...] = head.kernel[:, ::-1], head.bias[::-1]
    model.config = dataclasses.replace(model.config, labels=("fox", "dog", "cat"))
    save_bert(model, directory)
    return directory


def logits_of(directory, path):
    examples = read_examples(path)
    task = Classification(DataConfig(max_length=8))
    encoded = task.encode(Tokenizer(directory), examples)
    predictions, _ = run_model(task, load_bert(directory), encoded)
    return predictions.rows["logits"], examples.labels


METRICS = ("accuracy", "macro_f1", "loss", "calibration_error", "parameters")


def cells_of(printed):
    """The cells of a table of scores: by the name of the model, then of the row."""
    *_, table = re.split(r"^[\d,]+ texts of .*, on .*\n", printed, flags=re.MULTILINE)
    header, *lines = table.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+( - \S+)?", header)]
    columns = [slice(*bounds) for bounds in itertools.pairwise([*starts, None])]
    lines = [line for line in lines if line[: starts[0]].endswith("  ")]
    return {
        header[column].strip(): {line[: starts[0]].strip(): line[column].strip() for line in lines}
        for column in columns
    }


def rows_of(printed):
    """The cells that do not depend on time or on other models: metrics and parameters."""
    return {
        name: tuple(cells[metric] for metric in METRICS)
        for name, cells in cells_of(printed).items()
    }


def first(cell):
    """The number before an interval."""
    return float(cell.split()[0])


def test_the_teacher_learns_and_is_saved(done, data):
    accuracy_of_teacher = first(rows_of(done.train)["teacher"][0])
    assert accuracy_of_teacher > 0.9
    model = done.run / "teacher" / "model"
    assert f"The teacher is saved in {model}." in done.train
    assert read_model_directory(model).labels == tuple(sorted(KINDS))
    assert (model / "vocab.txt").read_bytes() == (data / "base" / "vocab.txt").read_bytes()
    logits, labels = logits_of(model, data / "test.jsonl")
    assert accuracy(logits, labels) == pytest.approx(accuracy_of_teacher, abs=1e-4)


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("train", page_output("command-line.md", "$ jaxbrewer train job.yaml\njax")),
        ("distill", page_output("command-line.md", "$ jaxbrewer distill job.yaml\n")),
        ("evaluate", page_output("evaluation.md", "$ jaxbrewer evaluate runs/demo")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_output_in_the_pages_has_the_form_of_what_is_printed(command, lines, done):
    require_form(lines, getattr(done, command).splitlines())


def test_the_page_shows_the_files_of_a_run(done):
    tree = page_block("command-line.md", "runs/glosses/").splitlines()
    named = [line.split()[0].rstrip("/") for line in tree]
    start, end = named.index("teacher"), named.index("student")
    files = {Path(name).parts[0] for name in named[start + 1 : end]}
    assert files == {path.name for path in (done.run / "teacher").iterdir()}
    assert {"teacher", "student"} <= {path.name for path in done.run.iterdir()}


def test_an_inspected_run_in_the_page_has_the_form_of_what_is_printed(done):
    shown, printed = (
        [line for line in lines if not line.startswith("command ")]
        for lines in (
            page_output("command-line.md", "$ jaxbrewer inspect runs"),
            run("inspect", done.run / "student").splitlines(),
        )
    )
    require_form(shown, printed)


def test_the_student_learns_from_the_teacher(done, data):
    rows = rows_of(done.distill)
    assert rows["teacher"] == rows_of(done.train)["teacher"]
    assert first(rows["student"][0]) > 0.9
    model = done.run / "student" / "model"
    assert read_model_directory(model).fields["num_hidden_layers"] == 1
    assert read_model_directory(model).labels == tuple(sorted(KINDS))
    teacher, _ = logits_of(done.run / "teacher" / "model", data / "test.jsonl")
    student, _ = logits_of(model, data / "test.jsonl")
    assert np.corrcoef(teacher.ravel(), student.ravel())[0, 1] > 0.9


def test_evaluating_a_saved_model_gives_the_same_numbers(done, data):
    assert rows_of(done.evaluate) == rows_of(done.distill)
    model = done.run / "student" / "model"
    printed = run("evaluate", model, data / "test.jsonl", "--max-length", 8, "--batch-size", 5)
    assert rows_of(printed)["model"] == rows_of(done.distill)["student"]
    lines = (data / "test.jsonl").read_text().splitlines(keepends=True)
    (done.path.parent / "part.jsonl").write_text("".join(lines[:7]))
    printed_part = run("evaluate", done.path, done.path.parent / "part.jsonl")
    assert printed_part.startswith("7 texts of")
    size = (model / "model.safetensors").stat().st_size
    assert f"{size / 1000:.1f} kB" in printed


def test_the_unlabelled_texts_are_used(done):
    lines = (done.run / "student" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == (144 + 48) // 16 * 6
    assert "unweighted_hidden_hidden_mse_1_2" in json.loads(lines[-1])
    assert "144 labelled in" in done.distill
    assert "48 unlabelled in" in done.distill


def test_each_run_has_its_own_logs(done):
    for name in ("teacher", "student"):
        assert list((done.log / name).glob("events.out.tfevents.*"))


def test_results_hold_scores_settings_and_versions(done):
    for name in ("teacher", "student"):
        results = read_results(done.run / name)
        assert results["role"] == name
        shown = rows_of(done.train if name == "teacher" else done.distill)
        for row, scores in results["rows"].items():
            assert f"{scores['metrics']['accuracy']:.4f}" == shown[row][0].split()[0]
            assert f"{scores['parameters']:,}" == shown[row][4]
        assert list(results["rows"])[-1] == name
        assert results["rows"][name]["model"] == str(done.run / name / "model")
        assert results["test"]["examples"] == 32
        assert results["training"]["steps"] == results["training"]["planned_steps"] == 72
        assert results["settings"]["distillation"]["temperature"] == 2
        assert results["environment"]["jaxbrewer"] == jaxbrewer.__version__
        assert read_results(done.run) is None


def test_the_learning_rate_and_the_hyperparameters_are_logged(done):
    rows = (done.run / "student" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(row)["learning_rate"] for row in rows]
    schedule = optax.join_schedules(
        [optax.linear_schedule(0, 0.01, 7), optax.linear_schedule(0.01, 0, 65)], [7]
    )
    np.testing.assert_allclose(rates, [schedule(step) for step in range(72)], rtol=1e-5)
    events = [
        (event.step, value)
        for path in (done.log / "student").iterdir()
        for _, event in read_events(path)
        for value in event.summary.value
    ]
    logged = {step: v.simple_value for step, v in events if v.tag == "scalar/learning_rate"}
    np.testing.assert_allclose(list(logged.values()), rates, rtol=1e-6)
    (accuracy,) = [(step, v.simple_value) for step, v in events if v.tag == "test/accuracy"]
    assert accuracy == (72, pytest.approx(first(rows_of(done.distill)["student"][0]), abs=1e-4))
    (start,) = [v for _, v in events if v.tag == "_hparams_/session_start_info"]
    content = HParamsPluginData.FromString(start.metadata.plugin_data.content)
    given = content.session_start_info.hparams
    assert given["student.optimization.learning_rate"].number_value == 0.01
    assert given["student.layers"].string_value == "[1]"


def test_runs_and_models_and_jobs_are_inspected(done, data):
    assert f"run          {done.run / 'student'}" in done.inspect
    assert "steps        72 of 72" in done.inspect
    assert "checkpoints  after steps 12, 24, 36, 48, 60, 72" in done.inspect
    assert "checkpoints  after steps 9, 18, 27, 36, 45, ..., 72" in done.inspect
    last = json.loads((done.run / "student" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{last['total_loss']:.6g}" in done.inspect
    printed = run("inspect", done.run / "student" / "model")
    count = rows_of(done.distill)["student"][4]
    assert re.search(rf"^total +\d+ +{count} ", printed, re.MULTILINE)
    assert "classes                  3: cat, dog, fox" in printed
    assert "encoder.layer.0" in printed
    assert "no head" in run("inspect", data / "base")
    printed = run("inspect", done.path, "--distillation.temperature", 9, "--student.layers", "[0]")
    assert re.search(r"^distillation.temperature +9 +command line$", printed, re.MULTILINE)
    assert re.search(r"^student.layers +\[0\] +command line$", printed, re.MULTILINE)
    assert re.search(r"^student.optimization.batch_size +16 +file$", printed, re.MULTILINE)
    match = "distillation.intermediate_matches.0"
    assert re.search(rf"^{match}.loss +\"hidden_mse\" +file$", printed, re.MULTILINE)
    assert re.search(rf"^{match}.proj +null +default$", printed, re.MULTILINE)
    assert re.search(r"^distillation.kd_loss_type +\"ce\" +default$", printed, re.MULTILINE)


def test_a_dry_run_describes_the_job(done):
    assert "144 labelled in" in done.check
    assert "32 to test on in" in done.check
    assert "new head" in done.check
    assert "72, in 8 epochs" in done.check
    assert "9 of 16 texts, 8 tokens wide" in done.check
    assert "after steps 9, 18, 27, 36, 45, ..., 72" in done.check
    assert "after 7 steps of warm-up" in done.check
    assert "Nothing was trained or written." in done.check


def test_a_dry_run_writes_nothing(job, tmp_path):
    run("train", job, "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_dry_run_of_a_distillation_shows_its_matches(done, tmp_path):
    printed = run(
        "distill", done.path, "--dry-run", "--training.overwrite", "true", "--student.layers=",
        "--student.size", "{hidden_size: 8, num_hidden_layers: 1}",
        "--distillation.intermediate_matches.0.proj", "[linear, 8, 16]",
        "--distillation.hard_label_weight", "0.5",
        "--student.optimization.num_steps", "5", "--training.ckpt_steps", "2",
    )  # fmt: skip
    assert (
        "hidden_hidden_mse_1_2: student 16x8x8 -> linear 8x16 -> teacher 16x8x16, weight 1"
        in printed
    )
    assert "logits ce at temperature 2, weight 1; labels, weight 0.5" in printed
    assert "random weights: bert of 1 layers x 8" in printed
    assert "after steps 2, 4, 5" in printed
    assert (done.run / "student" / "model" / "config.json").exists()


def test_a_cached_teacher_gives_the_same_student(done, shuffled, tmp_path):
    """The teacher numbers its classes otherwise than the data would, so that labels must follow."""
    words = ["--student.optimization.num_epochs", 2, "--distillation.intermediate_matches", "[]"]
    rows = []
    for cached in ("false", "true"):
        out = tmp_path / cached
        run(
            "distill", done.path, *words, "--training.output_dir", out, "--teacher.path", shuffled,
            "--distillation.is_caching_logits", cached, "--data.test=",
        )  # fmt: skip
        lines = (out / "student" / "metrics.jsonl").read_text().splitlines()
        rows.append([json.loads(line)["total_loss"] for line in lines])
        assert json.loads(lines[-1])["unweighted_hard_label_loss"] < 0.5
    np.testing.assert_allclose(*rows, rtol=1e-4)


def test_a_models_classes_keep_their_order(done, shuffled, data, tmp_path):
    """Columns of logits keep their classes, in any order of the data."""
    printed = run("evaluate", shuffled, data / "test.jsonl", "--max-length", 8)
    assert rows_of(printed)["model"] == rows_of(done.train)["teacher"]
    words = ["--teacher.path", shuffled, "--training.output_dir", tmp_path, "--dry-run"]
    for command in ("train", "distill"):
        printed = run(command, done.path, *words)
        assert "classes      3: fox, dog, cat\n" in printed
        assert "new head" not in printed
    names = '["cat", "dog", "fox", "owl"]'
    assert "new head" in run("train", done.path, *words, "--data.labels", names)


def test_a_teacher_takes_settings(done, tmp_path, capsys):
    words = ["--teacher.settings", "{classifier_pooling: mean}", "--teacher.frozen", "[]"]
    words += ["--training.output_dir", str(tmp_path / "run"), "--data.test="]
    run("train", done.path, *words, "--teacher.optimization.num_steps", 1)
    source = read_model_directory(tmp_path / "run" / "teacher" / "model")
    assert source.fields["classifier_pooling"] == "mean"
    assert "bert.pooler.dense.weight" not in source.tensors
    assert source.has_head
    run("distill", done.path, *words, "--dry-run")
    words = ["--training.overwrite", "true", "--teacher.settings", "{num_labels: 3}"]
    assert main(["train", str(done.path), *words]) == 2
    assert "teacher.settings has no field 'num_labels'" in capsys.readouterr().err


def test_a_model_without_names_takes_those_of_the_job(done, shuffled, data, tmp_path):
    fields = json.loads((shuffled / "config.json").read_text())
    fields["id2label"] = {number: f"LABEL_{number}" for number in range(3)}
    shutil.copytree(shuffled, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields))
    words = ["--teacher.path", tmp_path / "model", "--training.output_dir", tmp_path, "--dry-run"]
    printed = run("distill", done.path, *words, "--data.labels", "[fox, dog, cat]")
    assert "classes      3: fox, dog, cat\n" in printed
    rows = (data / "test.jsonl").read_text()
    for name, number in {"fox": 0, "dog": 1, "cat": 2}.items():
        rows = rows.replace(f'"{name}"', str(number))
    (tmp_path / "numbers.jsonl").write_text(rows)
    printed = run("evaluate", tmp_path / "model", tmp_path / "numbers.jsonl", "--max-length", 8)
    assert rows_of(printed)["model"] == rows_of(done.train)["teacher"]


def test_frozen_weights_stay(done, data):
    before = load_bert(data / "base", "sequence-classification").bert
    after = load_bert(done.run / "teacher" / "model").bert
    assert "frozen       bert.embeddings.word_embeddings\n" in done.train
    words = [bert.embeddings.word_embeddings.embedding[...] for bert in (before, after)]
    np.testing.assert_array_equal(*words)
    places = [bert.embeddings.position_embeddings.embedding[...] for bert in (before, after)]
    assert not np.array_equal(*places)


def test_pairs_of_texts_and_other_columns(content, data, tmp_path):
    rows = [
        json.dumps({"first": text, "second": "here it is", "kind": label})
        for text, label in texts(32, 3)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    columns = {"text": "first", "text_pair": "second", "label": "kind", "max_length": 16}
    file = str(tmp_path / "pairs.jsonl")
    teacher = write_model(tmp_path / "teacher", head=True, num_labels=3, labels=tuple(KINDS))
    job = {
        **content,
        "data": {"train": file, "test": file, **columns},
        "teacher": {"path": str(teacher)},
        "student": {"path": str(data / "other"), "optimization": {"num_steps": 1}},
        "distillation": {},
        "training": {"progress": False, "output_dir": str(tmp_path / "run")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    printed = run("distill", tmp_path / "job.yaml")
    assert "16 tokens wide" in printed
    model = tmp_path / "run" / "student" / "model"
    flags = ["--text", "first", "--text-pair", "second", "--label", "kind"]
    assert rows_of(run("evaluate", model, file, *flags))["model"] == rows_of(printed)["student"]
    run("evaluate", tmp_path / "job.yaml", "--data.text_pair=")  # a job takes overrides


@pytest.fixture
def again(done, tmp_path):
    """Words that make the job write to a copy of its runs."""
    shutil.copytree(done.run, tmp_path / "run")
    return [str(done.path), "--training.output_dir", str(tmp_path / "run")]


def test_a_run_is_replaced_only_on_request(again, tmp_path, capsys):
    for command in ("train", "distill"):
        assert main([command, *again]) == 2
        assert "already holds a run" in capsys.readouterr().err
    model = tmp_path / "run" / "teacher" / "model"
    words = [*again, "--training.overwrite", "true"]
    assert main(["train", *words, "--teacher.path", str(model)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    (model / "config.json").write_text("old")
    run("train", *words, "--teacher.optimization.num_steps", "2", "--data.test=")
    assert read_model_directory(model).has_head("sequence-classification")


def test_an_unfinished_training_is_refused_as_a_teacher(again, tmp_path, monkeypatch, capsys):
    words = [*again, "--training.overwrite", "true"]
    monkeypatch.setattr("jaxbrewer.run.checkpointer.Checkpointer.save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", *words])
    assert main(["distill", *words]) == 2
    assert "has not finished: resume it with `jaxbrewer train" in capsys.readouterr().err
    assert "not saved yet" in run("inspect", tmp_path / "run")
    assert read_results(tmp_path / "run" / "teacher") is None  # those of the run that was replaced


def test_an_interrupted_training_is_resumed(again, done, tmp_path):
    teacher = tmp_path / "run" / "teacher"
    for name in ("model", "checkpoints/72", "checkpoints/63"):
        shutil.rmtree(teacher / name)
    run("train", *again, "--resume")
    for name in ("metrics.jsonl", "checkpoints.jsonl", "model/model.safetensors"):
        assert (teacher / name).read_bytes() == (done.run / "teacher" / name).read_bytes()
    resumed, whole = read_results(teacher), read_results(done.run / "teacher")
    assert resumed["training"] == whole["training"]
    assert resumed["rows"]["teacher"]["metrics"] == whole["rows"]["teacher"]["metrics"]


def test_a_refused_training_writes_nothing(done, tmp_path, capsys):
    """Otherwise the next attempt would find the directory taken."""
    words = ["--training.output_dir", str(tmp_path / "run"), "--teacher.path"]
    words += [str(done.run / "teacher" / "model"), "--distillation.intermediate_matches.0.layer_T"]
    assert main(["distill", str(done.path), *words, "7"]) == 2
    assert "layer_T=7 is out of range" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_groups_of_batches_have_few_shapes(done, tmp_path):
    """Every combination of widths in a group is compiled anew."""
    long = "it often barks here today gladly there it often barks here"
    rows = (f"dog\t{' '.join(long.split()[: 1 + number % 11])}\n" for number in range(64))
    (tmp_path / "long.tsv").write_text("label\ttext\n" + "".join(rows))
    words = ["--data.train", tmp_path / "long.tsv", "--data.max_length", 16, "--dry-run"]
    words += ["--data.labels", "[cat, dog, fox]", "--training.output_dir", tmp_path / "run"]
    words += ["--training.gradient_accumulation_steps"]
    assert "8, 16 tokens wide" in run("train", done.path, *words, 2)
    assert "texts, 16 tokens wide" in run("train", done.path, *words, 4)
