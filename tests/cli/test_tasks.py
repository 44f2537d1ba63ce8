"""Every task through the commands: a whole job, and bad input in one line."""

import json
import re

import numpy as np
import pytest
import yaml

from jaxbrewer.models.model_directory import read_model_directory
from tests.cli.conftest import FILLERS, KINDS, STEPS, run, texts
from tests.cli.test_bad_input import refused
from tests.tiers import exhaustive_but


def multi_label(count, seed):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        chosen = [kind for kind in KINDS if draw.random() < 0.5]
        words = [*(draw.choice(KINDS[kind]) for kind in chosen), draw.choice(FILLERS)]
        yield {"text": " ".join(draw.permutation(words)), "label": chosen}


def regression(count, seed):
    for text, label in texts(count, seed):
        yield {"text": text, "label": list(KINDS).index(label) / 2}


def questions(count, seed):
    for text, _ in texts(count, seed):
        word = text.split()[-1]
        answer = {"text": word, "answer_start": text.rindex(word)}
        yield {"question": "often", "context": text, "answers": [answer]}


def tagged(count, seed):
    for text, label in texts(count, seed):
        words = text.split()
        yield {"tokens": words, "tags": [*["O"] * (len(words) - 1), f"B-{label}"]}


TASKS = {
    "multi-label": (multi_label, {}, "micro_f1", 0.85),
    "token-classification": (tagged, {}, "f1", 0.9),
    "question-answering": (questions, {"stride": 1, "max_length": 12}, "f1", 0.9),
    "regression": (regression, {}, "pearson", 0.9),
}
"""For each task: its examples, fields of ``data``, a metric and what it reaches."""


def write_job(place, base, task, **fields):
    """A job of a task, with its files."""
    examples, data, *_ = TASKS[task]
    paths = {}
    for number, part in enumerate(("train", "test", "unlabelled")):
        paths[part] = str(place / f"{part}.jsonl")
        rows = [json.dumps(row) + "\n" for row in examples(96 if part == "train" else 32, number)]
        (place / f"{part}.jsonl").write_text("".join(rows))
    job = {
        "data": {"task": task, "max_length": 8, **paths, **data, **fields},
        "teacher": {"path": str(base), "optimization": {**STEPS, "num_epochs": 20}},
        "student": {"layers": [1], "optimization": {**STEPS, "num_epochs": 16}},
        "training": {
            "progress": False,
            "output_dir": str(place / "run"),
            "ckpt_epoch_frequency": 20,
        },
    }
    (place / "job.yaml").write_text(yaml.safe_dump(job))
    return place / "job.yaml"


def scores(printed):
    """The metrics of each model in the table of scores."""
    lines = [re.split(r" {2,}", line.strip()) for line in printed.splitlines()]
    (at,) = (number for number, line in enumerate(lines) if re.match(r"[\d,]+ texts of ", line[0]))
    names = [name for name in lines[at + 1] if name in ("teacher", "student")]
    rows = {row[0]: row[1 : 1 + len(names)] for row in lines[at + 2 :] if len(row) > len(names)}
    return {
        name: {metric: cells[number].split()[0] for metric, cells in rows.items()}
        for number, name in enumerate(names)
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_job_of_every_task_runs(task, data, tmp_path):
    job = write_job(tmp_path, data / "base", task)
    *_, metric, reached = TASKS[task]
    trained = scores(run("train", job))
    assert float(trained["teacher"][metric]) > reached
    distilled = scores(run("distill", job))
    assert distilled["teacher"][metric] == trained["teacher"][metric]
    assert float(distilled["student"][metric]) > reached - 0.1
    assert read_model_directory(tmp_path / "run" / "student" / "model")


@pytest.mark.slow
@pytest.mark.parametrize("task", exhaustive_but(["token-classification"], TASKS))
def test_every_command_takes_every_task(task, data, tmp_path):
    job = write_job(tmp_path, data / "base", task)
    few = ["--teacher.optimization={num_steps: 2}", "--student.optimization={num_steps: 2}"]
    assert "All checks passed" in run("train", job, "--dry-run", *few)
    run("train", job, *few, "--data.test=")
    cache = ["--training.cache_dir", tmp_path / "cache", *few]
    run("cache", "build", job, *cache)
    distilled = scores(run("distill", job, *cache))
    assert scores(run("evaluate", job)).keys() == distilled.keys() == {"teacher", "student"}
    assert "device" in run("plan", job)
    assert task in run("inspect", job)


def test_the_models_of_other_tasks_are_refused_by_the_name_of_theirs(data, tmp_path, capsys):
    job = write_job(tmp_path, data / "base", "regression")
    line = refused(capsys, "distill", job)
    assert "has no sequence classification head, which data.task 'regression' needs" in line
    line = refused(capsys, "distill", job, "--teacher.path", data / "other")
    assert "other has 2 outputs: a regression has one" in line
    fields = json.loads((data / "other" / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in (data / "other").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    fields["problem_type"] = "multi_label_classification"
    (other / "config.json").write_text(json.dumps(fields))
    line = refused(capsys, "distill", job, "--teacher.path", other)
    assert line.startswith(f"{other} has the problem_type 'multi_label_classification', not")
    assert line.endswith("it needs data.task 'multi-label'.")


@pytest.mark.parametrize(
    ("task", "words", "says"),
    [
        ("multi-label", ["--distillation.kd_loss_type=ce"], "'ce' does not fit the logits of"),
        ("regression", ["--distillation.kd_loss_type=ce"], "'ce' does not fit the logits of"),
        ("regression", ["--data.task=regresion"], "data.task 'regresion' is unknown: did you mean"),
        ("multi-label", ["--data.threshold=2"], "DataConfig.threshold must be a finite number"),
        ("multi-label", ["--data.label_map={0: 1.5}"], "label_map must be a mapping from labels"),
        ("multi-label", ["--data.labels=nowhere.txt"], "data.labels: 'nowhere.txt' is not a file"),
    ],
)
def test_bad_settings_of_tasks_are_refused(task, words, says, data, tmp_path, capsys):
    job = write_job(tmp_path, data / "base", task)
    assert says in refused(capsys, "distill", job, *words)


BAD = {
    "multi-label": ('{"text": "it purrs", "label": 3}', "must be a list of names"),
    "regression": ('{"text": "it purrs", "label": "much"}', "must be a number, got 'much'"),
    "token-classification": ('{"tokens": ["it"], "tags": []}', "1 words have 0 tags"),
    "question-answering": (
        '{"question": "who", "context": "it purrs", "answers": []}',
        "the question has no answer: if questions may have none, set data.no_answer",
    ),
}
"""A line that each task refuses, and what it says."""


@pytest.mark.parametrize("task", BAD)
@pytest.mark.parametrize("part", ["train", "test"])
def test_bad_lines_of_every_task_are_refused(task, part, data, tmp_path, capsys):
    job, (line, says) = write_job(tmp_path, data / "base", task), BAD[task]
    (tmp_path / "bad.jsonl").write_text(line)
    said = refused(capsys, "train", job, f"--data.{part}", tmp_path / "bad.jsonl")
    assert says in said
    assert "bad.jsonl:1" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_teacher_with_names_reads_data_with_numbers(job, data, tmp_path, capsys):
    rows = [f"{text},{float(list(KINDS).index(label))}" for text, label in texts(24, 0)]
    (tmp_path / "numbers.csv").write_text("\n".join(["text,label", *rows]))
    run("train", job, "--teacher.optimization.num_steps=1", "--data.test=")
    capsys.readouterr()  # the teacher is hardly trained
    words = ["--data.train", tmp_path / "numbers.csv", "--data.test", tmp_path / "numbers.csv"]
    line = refused(capsys, "distill", job, *words)
    assert "other classes (3: cat, dog, fox) than the data (3: 0, 1, 2)" in line
    assert "set data.label_map to {0: cat, 1: dog, ...}" in line
    names = "{0: cat, 1: dog, 2: fox}"
    printed = run("distill", job, *words, "--data.label_map", names, "--dry-run")
    assert re.search(r"classes +3: cat, dog, fox", printed)
