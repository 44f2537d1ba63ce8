"""``jaxbrewer evaluate`` of models: the table, the JSON, the comparison with a teacher."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from jaxbrewer.json_files import conform, parse_json, read_json
from jaxbrewer.run.results import Scores
from jaxbrewer.text import load
from jaxbrewer.text.evaluation import Evaluation
from tests.cli.conftest import KINDS, WORDS, run, texts, write_model
from tests.cli.test_bad_input import refused
from tests.cli.test_job import cells_of
from tests.pages import PAGES, form, page_block

pytestmark = pytest.mark.slow


class Printed(Evaluation):
    """What ``--json`` prints."""

    file: str


NAMES = tuple(KINDS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A student, a teacher with its classes in another order, and a file of labelled texts."""
    place = tmp_path_factory.mktemp("evaluate")
    write_model(place / "student", head=True, num_labels=3, labels=NAMES, initializer_range=0.5)
    write_model(
        place / "teacher", head=True, num_labels=3, labels=NAMES[::-1], initializer_range=0.4
    )
    rows = [json.dumps({"text": text, "label": label}) for text, label in texts(120, 7)]
    (place / "test.jsonl").write_text("\n".join(rows) + "\n")
    return place


@pytest.fixture(scope="module")
def evaluation(place):
    words = ["evaluate", place / "student", place / "test.jsonl", "--teacher", place / "teacher"]
    printed = run(*words, "--json", "--output", place / "scores.json")
    assert read_json(place / "scores.json", Printed) == json.loads(printed)
    return conform(parse_json(printed, "printed"), Printed, "printed")


def probabilities(directory, file):
    """By class in the order of ``NAMES``."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    model = load(directory)
    logits = np.float64(model.logits(rows))[:, [model.names.index(name) for name in NAMES]]
    return softmax(logits, -1), np.array([NAMES.index(row["label"]) for row in rows])


def test_a_model_is_compared_with_its_teacher_class_by_class(place, evaluation):
    teacher, labels = probabilities(place / "teacher", place / "test.jsonl")
    student, _ = probabilities(place / "student", place / "test.jsonl")
    rows = evaluation["rows"]
    for name, p in (("teacher", teacher), ("student", student)):
        metrics = rows[name]["metrics"]
        assert metrics["accuracy"] == pytest.approx(np.mean(p.argmax(-1) == labels))
        chosen = p[np.arange(len(labels)), labels]
        assert metrics["loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    assert rows["student"]["agreement"] == pytest.approx(
        {
            "top1_agreement": np.mean(teacher.argmax(-1) == student.argmax(-1)),
            "kl_divergence": rel_entr(teacher, student).sum(-1).mean(),
        },
        rel=1e-4,
    )
    assert "agreement" not in rows["teacher"]
    for metric, value in rows["student"]["difference"].items():
        expected = rows["student"]["metrics"][metric] - rows["teacher"]["metrics"][metric]
        assert value == pytest.approx(expected)


def test_the_page_names_every_entry_of_the_json():
    table = PAGES["evaluation.md"].partition("| entry | what it holds |")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]]
    top, of_model = (
        sorted(re.findall(r"`(\w+)`", " ".join(cell for cell in cells if ("·" in cell) == nested)))
        for nested in (False, True)
    )
    assert top == sorted(Printed.__annotations__)
    assert of_model == sorted(["p50", "p95", *Scores.__annotations__])


def test_every_number_has_an_interval_around_it(evaluation):
    for scores in evaluation["rows"].values():
        numbers = {**scores["metrics"], **scores.get("agreement", {})}
        assert list(numbers) == list(scores["intervals"])
        pairs = [(numbers, scores["intervals"])]
        if "difference" in scores:
            pairs.append((scores["difference"], scores["difference_intervals"]))
        for values, intervals in pairs:
            for name, value in values.items():
                low, high = intervals[name]
                assert low <= value <= high, name


def test_json_holds_sizes_speeds_and_settings(place, evaluation):
    assert evaluation["file"] == str(place / "test.jsonl")
    assert (evaluation["task"], evaluation["main_metric"]) == ("classification", "accuracy")
    assert (evaluation["examples"], evaluation["device"]) == (120, "cpu")
    assert (evaluation["level"], evaluation["resamplings"]) == (0.95, 1000)
    for name, scores in evaluation["rows"].items():
        size = (place / name / "model.safetensors").stat().st_size
        assert (scores["bytes"], scores["model"]) == (size, str(place / name))
        assert 0 < scores["latency_ms"]["p50"] <= scores["latency_ms"]["p95"]
        assert scores["examples_per_second"] > 0


def test_the_table_shows_the_numbers_of_the_json_in_100_columns(place, evaluation):
    printed = run(
        "evaluate", place / "student", place / "test.jsonl", "--teacher", place / "teacher"
    )
    assert printed.startswith(f"120 texts of {place / 'test.jsonl'}, on cpu\n")
    lines = printed.splitlines()[1:]
    assert max(map(len, lines)) <= 100
    cells = cells_of(printed)
    assert list(cells) == ["teacher", "student", "student - teacher"]
    low, high = evaluation["rows"]["student"]["intervals"]["kl_divergence"]
    value = evaluation["rows"]["student"]["agreement"]["kl_divergence"]
    assert cells["student"]["kl_divergence"] == f"{value:.4f} [{low:.4f}, {high:.4f}]"
    assert cells["teacher"]["kl_divergence"] == ""
    assert cells["student"]["parameters"] == f"{evaluation['rows']['student']['parameters']:,}"


def test_selective_prediction_finds_a_threshold(place, capsys):
    student, file = place / "student", place / "test.jsonl"
    words = ["evaluate", student, file, "--teacher", student]
    printed = run(*words, "--selective", 0.95)
    page = page_block("evaluation.md", "Above a confidence")
    assert form(printed.splitlines()[-1]) == form(page)
    assert "Above a confidence of 0.0000 the student agrees with the teacher on at least 0." in (
        printed
    )
    assert "(95 % confidence; 1.0000 of 120 here; asked: 0.95)" in printed
    words[-1] = place / "teacher"
    found = json.loads(run(*words, "--selective", 0.99, "--json"))["rows"]["student"]["selective"]
    assert found == {
        "rate": 0.99, "level": 0.95, "threshold": None, "kept": 0, "agreement": None, "bound": 0,
        "share_below": 1,
    }  # fmt: skip
    assert "all texts should go to the teacher" in run(*words, "--selective", 0.99)
    assert "--selective must be between 0 and 1" in refused(capsys, *words, "--selective", 1)
    assert "needs a student and a teacher" in refused(capsys, *words[:3], "--selective", 0.9)


def test_metrics_of_each_class_are_shown_when_asked_for(place):
    words = ["evaluate", place / "student", place / "test.jsonl"]
    printed = run(*words, "--per-class")
    details = json.loads(run(*words, "--per-class", "--json"))["rows"]["model"]["details"]
    p, labels = probabilities(place / "student", place / "test.jsonl")
    predicted = p.argmax(-1)
    for number, name in enumerate(NAMES):
        shown = re.search(rf"^{name} +(.*)$", printed, re.MULTILINE)[1].split()
        assert shown[-1] == f"{np.sum(labels == number)}"
        hits = np.sum((labels == number) & (predicted == number))
        assert details[name]["recall"] == pytest.approx(hits / np.sum(labels == number))


def test_cut_texts_are_counted(place):
    long = place / "long.jsonl"
    rows = [{"text": "it often purrs here today", "label": "cat"}, {"text": "it", "label": "dog"}]
    long.write_text("\n".join(map(json.dumps, rows)))
    printed = run("evaluate", place / "student", long, "--max-length", 5)
    assert "Texts that were cut to the maximum length: 1.\n" in printed
    assert "were cut" not in run("evaluate", place / "student", long, "--max-length", 7)


def test_a_table_without_metrics_says_why(place):
    printed = run("evaluate", place / "student", place / "test.jsonl", "--task", "embeddings")
    assert "No metrics: data.task embeddings reads no labels. Train a head" in printed


def test_a_teacher_with_other_classes_is_refused(place, tmp_path, capsys):
    labels = ("cat", "dog", "owl", "fox")
    other = write_model(tmp_path / "other", head=True, num_labels=4, labels=labels)
    words = ["evaluate", place / "student", place / "test.jsonl", "--teacher", other, "--json"]
    rows = json.loads(run(*words))["rows"]
    assert "agreement" not in rows["student"]  # a fourth class has no counterpart
    assert set(rows["student"]["difference"]) >= {"accuracy", "macro_f1"}
    shutil.copytree(place / "teacher", tmp_path / "bare")
    fields = json.loads((tmp_path / "bare" / "config.json").read_text())
    fields["id2label"] = {"0": "owl", "1": "bat", "2": "elk"}
    (tmp_path / "bare" / "config.json").write_text(json.dumps(fields))
    words[4] = tmp_path / "bare"
    line = refused(capsys, *words)
    assert "the label" in line
    assert "is not one of the classes: Allowed: 'owl', 'bat', 'elk'" in line


def test_inputs_that_cannot_be_scored_are_one_line(place, tmp_path, capsys):
    student, file = place / "student", place / "test.jsonl"
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("text\nit purrs\n")
    assert "unlabelled.csv:2: no column 'label'" in refused(capsys, "evaluate", student, unlabelled)
    (tmp_path / "empty.csv").write_text("")
    assert "is empty: it has no" in refused(capsys, "evaluate", student, tmp_path / "empty.csv")
    line = refused(capsys, "evaluate", student, file, "--max-length", 17)
    assert "max_length 17 is more than the model can read" in line
    line = refused(capsys, "evaluate", student, file, "--output", tmp_path / "no" / "scores.json")
    assert "scores.json" in line
    shutil.copytree(student, tmp_path / "copy")
    (tmp_path / "copy" / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    assert "but the tokenizer has" in refused(capsys, "evaluate", tmp_path / "copy", file)
