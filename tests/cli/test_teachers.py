"""Teachers other than one model: several, columns of a file, and labels alone beside them."""

import json
import re

import numpy as np
import pytest
import yaml

from jaxbrewer.cli import main
from jaxbrewer.configs import DataConfig
from jaxbrewer.models import load_bert
from jaxbrewer.models.model_directory import read_model_directory
from jaxbrewer.run.results import read_results
from jaxbrewer.text import Tokenizer, read_examples
from jaxbrewer.text.gain import describe_gain
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.classification import Classification
from tests.cli.conftest import KINDS, STEPS, run, texts, write_model

NAMES = tuple(sorted(KINDS))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two teachers of the three classes with random heads, and texts with probabilities."""
    place = tmp_path_factory.mktemp("teachers")
    for name, seed in (("one", 1), ("two", 2)):
        write_model(place / name, head=True, seed=seed, num_labels=3, labels=NAMES)
    rng = np.random.default_rng(0)
    for name, count, seed in (("train", 48, 0), ("test", 32, 2)):
        rows = []
        for text, label in texts(count, seed):
            p = rng.dirichlet([0.3] * 3)
            p[NAMES.index(label)] += 2.0
            p /= p.sum()
            rows.append(
                {"text": text, "label": label, "p": dict(zip(NAMES, p.tolist(), strict=True))}
            )
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def job(place, tmp_path):
    """A job of a few steps without a teacher."""
    content = {
        "data": {
            "train": str(place / "train.jsonl"), "test": str(place / "test.jsonl"), "max_length": 8,
        },
        "student": {"optimization": {**STEPS, "num_steps": 4}},
        "training": {"progress": False, "output_dir": str(tmp_path / "run")},
    }  # fmt: skip
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def logits_of(directory, path):
    examples, task = read_examples(path), Classification(DataConfig(max_length=8))
    encoded = task.encode(Tokenizer(directory), examples)
    return run_model(task, load_bert(directory), encoded).predictions.rows["logits"]


@pytest.mark.slow
def test_the_baseline_learns_from_labels_alone(job, place, tmp_path):
    words = [job, "--teacher.path", place / "one", "--student.layers", "[0]", "--baseline"]
    described = run("distill", *words, "--dry-run")
    assert re.search("^baseline +the same student on the labels of", described, re.MULTILINE)
    assert not (tmp_path / "run").exists()
    more = ["--data.validation", place / "test.jsonl", "--training.patience", 9]
    more += ["--student.optimization.num_steps=", "--student.optimization.num_epochs", 1]
    more += ["--student.optimization.min_steps", 4, "--training.ckpt_frequency", 2]
    printed = run("distill", *words, *more)
    assert re.search("^checkpoints +after steps 2, 4$", printed, re.MULTILINE)
    results = read_results(tmp_path / "run" / "student")
    assert list(results["rows"]) == ["teacher", "baseline", "student"]
    assert printed.count("The best of 2 checkpoints is that of step") == 2
    first, _, second = printed.partition("The baseline: the same student")
    scores, page = results["rows"]["student"], tmp_path / "page.html"
    assert f"{scores['metrics']['accuracy']:.4f} [" in first  # before the baseline is trained
    assert f"The student is saved in {tmp_path / 'run' / 'student' / 'model'}.\n" in first
    assert "student - baseline" in second
    run("report", tmp_path / "run", "--output", page)
    card = tmp_path / "run" / "student" / "model" / "README.md"
    for text in (second, page.read_text(), card.read_text()):
        assert describe_gain(scores["gain"], "accuracy") in text
    beside = read_results(tmp_path / "run" / "baseline")
    assert (results["role"], beside["role"]) == ("student", "baseline")
    assert beside["rows"] == results["rows"]
    assert beside["training"]["steps"] == results["training"]["steps"] == 4
    assert [row["step"] for row in beside["training"]["validation"]] == [2, 4]
    for name, loss in (("student", "kd_loss"), ("baseline", "hard_label_loss")):
        lines = (tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines()
        assert set(json.loads(lines[0])) >= {f"unweighted_{loss}"}
        assert len(lines) == 4
    assert "unweighted_kd_loss" not in lines[0]
    parameters = {results["rows"][name]["parameters"] for name in ("student", "baseline")}
    assert len(parameters) == 1
    printed = run("evaluate", job, "--teacher.path", place / "one")
    assert printed.splitlines()[1].split()[:3] == ["teacher", "baseline", "student"]
    assert "baseline" in run("inspect", tmp_path / "run")
    run("distill", *words, *more, "--resume")
    assert read_results(tmp_path / "run" / "baseline")["training"] == beside["training"]


@pytest.mark.slow
def test_texts_without_labels_suffice(job, place, tmp_path):
    words = [job, "--teacher.path", place / "one", "--student.layers", "[0]", "--data.train="]
    words += ["--data.unlabelled", place / "train.jsonl"]
    printed = run("distill", *words, "--data.test=")
    assert re.search("^texts +48 unlabelled in", printed, re.MULTILINE)
    model = tmp_path / "run" / "student" / "model"
    assert read_model_directory(model).labels == NAMES
    assert "48 texts" in run("plan", *words) or "texts of 8 tokens" in run("plan", *words)
    cache = ["--training.cache_dir", tmp_path / "cache"]
    assert "complete            yes" in run("cache", "build", *words, *cache)


@pytest.mark.slow
def test_several_teachers_are_averaged_by_their_weights(job, place, tmp_path):
    teachers = [{"path": str(place / "one"), "weight": 3}, {"path": str(place / "two")}]
    words = [job, "--student.path", place / "one", "--distillation.temperature", 1]
    content = yaml.safe_load(job.read_text()) | {"teachers": teachers}
    job.write_text(yaml.safe_dump(content))
    printed = run("distill", *words, "--student.optimization.learning_rate", 0)
    assert f"teacher 0    {place / 'one'}: bert of 2 layers x 16" in printed
    assert "weight 3" in printed
    results = read_results(tmp_path / "run" / "student")
    assert list(results["rows"]) == ["teacher 0", "teacher 1", "student"]
    lines = (tmp_path / "run" / "student" / "metrics.jsonl").read_text().splitlines()
    found = np.mean([json.loads(line)["unweighted_kd_loss"] for line in lines[:3]])  # an epoch
    one, two = (logits_of(place / name, place / "train.jsonl") for name in ("one", "two"))

    def log_softmax(logits):
        shifted = np.float64(logits) - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    target = np.exp(log_softmax((3 * one + two) / 4))
    expected = -(target * log_softmax(one)).sum(-1).mean()
    assert found == pytest.approx(expected, rel=1e-4)
    assert "teachers.0.weight" in run("inspect", job)
    assert "student" in run("plan", *words)


@pytest.mark.slow
def test_probabilities_in_the_files_take_the_place_of_a_teacher(job, place, tmp_path):
    words = [job, "--student.path", place / "one", "--data.probabilities", "p"]
    words += ["--distillation.temperature", 2, "--baseline"]
    printed = run("distill", *words, "--student.optimization.learning_rate", 0)
    assert "teacher      from elsewhere: probabilities in the column p of the files" in printed
    results = read_results(tmp_path / "run" / "student")
    assert list(results["rows"]) == ["teacher", "baseline", "student"]
    assert results["rows"]["teacher"]["metrics"]["accuracy"] == 1
    assert "parameters" not in results["rows"]["teacher"]
    lines = (tmp_path / "run" / "student" / "metrics.jsonl").read_text().splitlines()
    found = np.mean([json.loads(line)["unweighted_kd_loss"] for line in lines[:3]])  # an epoch
    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    root = np.sqrt([[row["p"][name] for name in NAMES] for row in rows])  # p^(1/T)
    logits = np.float64(logits_of(place / "one", place / "train.jsonl")) / 2
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(root / root.sum(-1, keepdims=True) * log_q).sum(-1).mean()
    assert found == pytest.approx(expected, rel=1e-4)
    printed = run("evaluate", job, "--data.probabilities", "p")
    assert printed.splitlines()[1].split()[:3] == ["teacher", "baseline", "student"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--baseline", "--data.train="], "--baseline trains on labels, but"),
        (["--data.train=", "--teacher.path", "one"], "has no data.train"),
        (
            ["--data.train=", "--data.unlabelled", "train.jsonl", "--teacher.path", "one",
             "--distillation.hard_label_weight", "1"],
            "or set the weight to 0",
        ),
        (["--data.probabilities", "p"], "has no student.path: give the directory of the student"),
        (["--data.probabilities", "p", "--teacher.path", "one"], "leave out teacher.path"),
        (["--data.probabilities", "q", "--student.path", "one"], "train.jsonl:1: no column 'q'"),
        (["--data.probabilities", "p", "--data.log_probabilities", "p"], "takes one of"),
        (["--data.probabilities", "3"], "must be a column, or a mapping"),
        (["--data.probabilities", "p", "--data.task", "regression"], "needs data.task 'class"),
        (
            ["--data.probabilities", "p", "--student.path", "one",
             "--distillation.kd_loss_type", "mse"],
            "compares logits, which data.probabilities determines only up to a constant",
        ),
        (
            ["--data.probabilities", "p", "--student.path", "one",
             "--distillation.intermediate_matches", "[L3_hidden_mse]"],
            "has no hidden states",
        ),
        (["--data.probabilities", "p", "--student.path", "one", "--training.cache_dir", "c"],
         "has no model to cache"),
        (["--data.class_weights", "{owl: 2}", "--teacher.path", "one"], "'owl' is no class"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(words, says, job, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    if "--student.path" not in words and "--data.probabilities" not in words:
        words = [*words, "--student.layers", "[0]"]
    assert main(["distill", str(job), *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("teachers", "says"),
    [
        ("one", "teachers must be a list of {path, weight}"),
        ([{"path": "one"}], "at least two; one is the section teacher"),
        ([{"path": "one"}, {"weight": 2}], "teachers[1]: WeightedTeacher.path must be a directory"),
        ([{"path": "one"}, {"path": "two", "weight": 0}], "weight must be a positive number"),
        ([{"path": "one"}, {"path": "two", "wait": 1}], "did you mean 'weight'"),
        ([{"path": "one"}, {"path": "other"}], "other has the classes"),
        ([{"path": "one"}, {"path": "nowhere"}], "nowhere"),
    ],
)
def test_bad_teachers_are_one_line(teachers, says, job, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    write_model(place / "other", head=True, num_labels=3, labels=NAMES[::-1])
    content = yaml.safe_load(job.read_text()) | {"teachers": teachers}
    content["student"]["layers"] = [0]
    job.write_text(yaml.safe_dump(content))
    assert main(["distill", str(job)]) == 2
    error = capsys.readouterr().err
    assert says.replace("other has the classes", "other has other classes than one") in error
    assert error.count("\n") == 1


def test_a_cache_has_one_teacher(job, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    content = yaml.safe_load(job.read_text())
    for more, says in (
        ({"teachers": [{"path": "one"}, {"path": "two"}]}, "has several teachers"),
        ({"data": {**content["data"], "probabilities": "p"}}, "nothing to cache"),
    ):
        job.write_text(yaml.safe_dump(content | more))
        assert main(["cache", "build", str(job), "--training.cache_dir", "cache"]) == 2
        assert says in capsys.readouterr().err
