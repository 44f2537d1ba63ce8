"""A job with several tasks: one student with a head for each."""

import json
import re

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from jaxbrewer.cli import main
from jaxbrewer.devices.estimate import Estimate
from jaxbrewer.models.model_directory import read_model_directory
from jaxbrewer.run.logs import read_events
from jaxbrewer.run.results import read_results
from tests.cli.conftest import KINDS, STEPS, run, texts, write_model

NAMES = tuple(sorted(KINDS))
NAMES_OF_TASKS = ("animal", "cat")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Teachers and texts of two tasks: which animal, and whether it is a cat."""
    place = tmp_path_factory.mktemp("tasks")
    write_model(place / "animal", head=True, seed=1, num_labels=3, labels=NAMES)
    write_model(place / "cat", head=True, seed=2, num_labels=2, labels=("no", "yes"))
    for name, count, seed in (("train", 48, 0), ("test", 32, 2)):
        rows = [
            {"text": text, "label": label, "is_cat": "yes" if label == "cat" else "no"}
            for text, label in texts(count, seed)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def content(tmp_path):
    files = {"train": "train.jsonl", "test": "test.jsonl", "max_length": 8}
    return {
        "tasks": {
            "animal": {
                "data": files,
                "teacher": {"path": "animal"},
                "distillation": {"temperature": 2},
            },
            "cat": {"data": {**files, "label": "is_cat"}, "teacher": {"path": "cat"}},
        },
        "student": {"layers": [0], "optimization": {**STEPS, "num_epochs": 4}},
        "distillation": {"hard_label_weight": 0.5},
        "training": {"progress": False, "output_dir": str(tmp_path / "run")},
    }


DISTILL_VALIDATED = (
    "distill",
    "--tasks.animal.data.validation",
    "test.jsonl",
    "--tasks.cat.data.validation",
    "test.jsonl",
)


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_one_student_learns_every_task(content, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    for section in content["tasks"].values():
        section["data"] = {**section["data"], "validation": "test.jsonl"}
    # the worst checkpoint is the saved one, which is seldom the last
    content["training"] |= {"best_metric": "animal/accuracy", "best_mode": "min", "keep_last": 1}
    content["training"]["log_dir"] = str(tmp_path / "log")
    job = write(tmp_path / "job.yaml", content)
    printed = run("distill", job, "--dry-run")
    assert "the best animal/accuracy (min) is kept" in printed
    assert "after steps 6, 12, 18, 24" in printed
    assert "cat: classification\n" in printed
    assert "24, their tasks drawn by numbers of examples" in printed
    assert not (tmp_path / "run").exists()
    printed = run("distill", job, "--baseline")
    student = tmp_path / "run" / "student"
    animal, cat = (
        load_file(student / "model" / name / "model.safetensors") for name in ("animal", "cat")
    )
    assert read_model_directory(student / "model" / "cat").labels == ("no", "yes")
    shared = [name for name in cat if name.startswith("bert.")]
    assert shared
    for name in shared:
        np.testing.assert_array_equal(cat[name], animal[name])
    results = read_results(student)
    assert list(results["rows"]) == [
        "animal/teacher", "animal/baseline", "animal/student",
        "cat/teacher", "cat/baseline", "cat/student",
    ]  # fmt: skip
    assert results["test"] == {
        name: {"path": "test.jsonl", "examples": 32} for name in NAMES_OF_TASKS
    }
    beside = read_results(tmp_path / "run" / "baseline")
    assert beside["role"] == "baseline"
    assert (beside["rows"], beside["test"]) == (results["rows"], results["test"])
    for own in (results, beside):
        training, role = own["training"], own["role"]
        scored = {row["step"]: row for row in training["validation"]}
        assert (training["steps"], list(scored)) == (24, [6, 12, 18, 24])
        best = scored[min(scored, key=lambda step: (scored[step]["animal/accuracy"], step))]
        assert training["best_step"] == best["step"] < 24
        assert f"that of step {best['step']}: animal/accuracy" in printed
        saved = {path.name for path in (tmp_path / "run" / role / "checkpoints").iterdir()}
        assert saved == {str(best["step"]), "24"}
        events = [
            value
            for path in (tmp_path / "log" / role).glob("events*")
            for _, event in read_events(path)
            for value in event.summary.value
        ]
        for name in NAMES_OF_TASKS:  # the texts of the validation are those of the test
            metrics = own["rows"][f"{name}/{role}"]["metrics"]
            for metric in ("accuracy", "loss"):
                assert metrics[metric] == pytest.approx(best[f"{name}/{metric}"], rel=1e-5)
            tracked = [v.simple_value for v in events if v.tag == f"test/{name}/accuracy"]
            assert tracked == [pytest.approx(metrics["accuracy"])]
            card = (tmp_path / "run" / role / "model" / name / "README.md").read_text()
            assert f"| {role} | {metrics['accuracy']:.4f} [" in card
            assert "| test examples | 32 |" in card
    kept = load_file(tmp_path / "run" / "baseline" / "model" / "cat" / "model.safetensors")
    assert not np.array_equal(kept["classifier.weight"], cat["classifier.weight"])
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    losses = [line["cat/unweighted_kd_loss"] for line in lines if "cat/unweighted_kd_loss" in line]
    assert 0 < len(losses) < len(lines)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all("learning_rate" in line for line in lines)
    scored = run("evaluate", student / "model" / "cat", "test.jsonl", "--label", "is_cat")
    accuracy = results["rows"]["cat/student"]["metrics"]["accuracy"]
    assert f"{accuracy:.4f}" in scored
    of_job = json.loads(run("evaluate", job, "--json", "--tasks.animal.data.test="))["tasks"]
    assert list(of_job) == ["cat"]
    assert list(of_job["cat"]["rows"]) == ["teacher", "baseline", "student"]
    assert of_job["cat"]["rows"]["student"]["metrics"]["accuracy"] == accuracy
    assert "tasks.cat.teacher.path" in run("inspect", job)
    shown = ", ".join(str(student / "model" / name) for name in ("animal", "cat"))
    assert re.search(
        rf"^model +{re.escape(shown)}, of step [0-9]+", run("inspect", student), re.MULTILINE
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": [1]}, "tasks must be a mapping from names to sections"),
        ({"tasks": {"a": {}}}, "at least two; one is the section data"),
        ({"tasks": {"a/b": {}, "c": {}}}, "named with letters, digits, _ and -"),
        ({"tasks": {"a": {"dat": {}}, "c": {}}}, "tasks.a: TaskConfig has no field 'dat'"),
        ({"tasks": {"a": {}, "c": {}}}, "tasks.a: "),
        ({"teacher": {"path": "animal"}}, "teacher stands in each of tasks"),
        ({"data": {"train": "train.jsonl"}}, "data stands in each of tasks"),
        ({"training": {"cache_dir": "cache"}}, "Several tasks have no teacher cache"),
        ({"student": {"size": {"hidden_size": 7}}}, "hidden_size"),
    ],
)
def test_bad_jobs_are_one_line(change, says, content, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    job = write(tmp_path / "job.yaml", content | change)
    assert main(["distill", str(job)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_plan_has_a_step_of_each_task(content, place, tmp_path, monkeypatch):
    compiled = []

    def estimate(training, task):
        compiled.append((task, next(iter(training.loaders[task]))["input_ids"].shape))
        return Estimate(10, 20, 30, 40, 50, 6e7, {}, {})

    monkeypatch.setattr("jaxbrewer.text.multi_task.MultiTaskTraining.estimate", estimate)
    monkeypatch.chdir(place)
    content["tasks"]["cat"]["data"] = {**content["tasks"]["cat"]["data"], "max_length": 4}
    printed = run("plan", write(tmp_path / "job.yaml", content))
    assert compiled == [("animal", (16, 8)), ("cat", (16, 4))]
    assert re.findall(r"^task +(\w+)$", printed, re.MULTILINE) == ["animal", "cat"]
    assert re.findall(r"^step +16 texts of (\d) tokens$", printed, re.MULTILINE) == ["8", "4"]
    assert printed.count("Nothing was run.") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate"], "holds no model yet: run `jaxbrewer distill"),
        (["evaluate", "--tasks.animal.data.test=", "--tasks.cat.data.test="],
         "has no tasks.animal.data.test"),
        (["evaluate", "--max-length", "8"], "give --tasks.<task>.data.max_length"),
        (["distill", "--baseline", "--tasks.cat.data.train="], "has no tasks.cat.data.train"),
        (["plan", "--tasks.cat.teacher.path="], "has no tasks.cat.teacher.path"),
        (["plan", "--data.train", "train.jsonl"], "data stands in each of tasks"),
        ([*DISTILL_VALIDATED],
         "animal and cat have data.validation: name the metric that chooses the best checkpoint, "
         "such as animal/accuracy or cat/accuracy"),
        ([*DISTILL_VALIDATED, "--training.best_metric", "accuracy"],
         "must be <task>/<metric> of a task with data.validation, such as animal/accuracy or "
         "cat/accuracy, got 'accuracy'"),
        ([*DISTILL_VALIDATED, "--training.best_metric", "cat/accurcy"],
         "'cat/accurcy' is neither returned by the callback"),
        ([*DISTILL_VALIDATED, "--training.best_metric", "cat/loss",
          "--training.ckpt_frequency", "0"], "tasks.animal: data.validation needs checkpoints"),
    ],
)  # fmt: skip
def test_commands_name_what_a_task_lacks(
    words, says, content, place, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    job = write(tmp_path / "job.yaml", content)
    command, *rest = words
    assert main([command, str(job), *rest]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["train"], ["cache", "build"], ["study"]])
def test_other_commands_refuse_such_jobs(words, content, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    content["training"]["cache_dir"] = str(tmp_path / "cache")
    content["data"] = {"test": "test.jsonl"}
    job = write(tmp_path / "job.yaml", content)
    assert main([*words, str(job)]) == 2
    assert "has several tasks: only `jaxbrewer distill`" in capsys.readouterr().err
