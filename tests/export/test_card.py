"""Model cards: front matter that hubs read, and the results of the run."""

import contextlib
import io
import json
import re

import pytest
import yaml

from jaxbrewer.export import CardFacts, model_card, run_facts
from jaxbrewer.export.card import directory_card
from tests.cli.conftest import write_model

RESULTS = {
    "format": 1,
    "role": "student",
    "task": "classification",
    "rows": {
        "teacher": {"metrics": {"accuracy": 0.9, "macro_f1": None}, "parameters": 5000},
        "student": {
            "metrics": {"accuracy": 0.875, "macro_f1": 0.8},
            "intervals": {"accuracy": [0.85, 0.9]},
            "parameters": 1234,
            "bytes": 5_000_000,
        },
    },
    "test": {"path": "test.tsv", "examples": 400},
    "settings": {
        "data": {"train": "train.tsv", "max_length": 64, "labels": None},
        "teacher": {"path": "models/minilm"},
        "distillation": {"temperature": 4, "intermediate_matches": []},
    },
    "environment": {"jax": "0.10.2", "started": "now", "python": "3.11"},
}


def write_run(directory, model, results, place="model"):
    """A run directory around a copy of a model."""
    (directory / place).mkdir(parents=True)
    for file in model.iterdir():
        (directory / place / file.name).write_bytes(file.read_bytes())
    (directory / "results.json").write_text(results)
    return directory / place


def test_a_card_has_the_results_the_data_and_the_settings_of_its_run(
    classifier_directory, tmp_path
):
    model = write_run(tmp_path / "run", classifier_directory, json.dumps(RESULTS))
    text = model_card(directory_card(model))
    front = yaml.safe_load(text.split("---")[1])
    assert front["pipeline_tag"] == "text-classification"
    assert "| model | accuracy | macro_f1 | parameters | MB |" in text
    assert "| student | 0.8750 [0.850, 0.900] | 0.8000 | 1,234 | 5.0 |" in text
    assert "| teacher | 0.9000 |  | 5,000 |  |" in text
    assert "distilled from minilm with jaxbrewer" in text
    for line in ("| train | train.tsv |", "| test examples | 400 |", "| jax | 0.10.2 |"):
        assert line in text
    assert "| distillation.temperature | 4 |" in text
    assert "Classes: cat, dog, fox" in text
    assert "labels" not in text
    assert "started" not in text


def test_the_card_of_one_of_several_tasks_has_its_own_results(classifier_directory, tmp_path):
    settings = {key: value for key, value in RESULTS["settings"].items() if key == "distillation"}
    section = {"data": {"train": "spam.tsv"}, "teacher": {"path": "models/filter"}}
    several = {
        "role": "student",
        "rows": {f"{task}/{role}": row for task in ("topic", "spam")
                 for role, row in RESULTS["rows"].items()},
        "test": {"topic": RESULTS["test"], "spam": {"path": "spam-test.tsv", "examples": 57}},
        "settings": {
            **settings,
            "tasks": {"spam": {**section, "distillation": None}, "topic": RESULTS["settings"]},
        },
    }  # fmt: skip
    content = json.dumps(several)
    model = write_run(tmp_path / "run", classifier_directory, content, "model/spam")
    text = model_card(directory_card(model))
    assert "| student | 0.8750 [0.850, 0.900] | 0.8000 | 1,234 | 5.0 |" in text
    assert text.count("| student |") == 1
    assert "distilled from filter with jaxbrewer" in text
    for line in (
        "| train | spam.tsv |", "| distillation.temperature | 4 |", "| test examples | 57 |",
    ):  # fmt: skip
        assert line in text
    assert "topic" not in text
    for place in ("model/other", "other/spam"):
        assert run_facts(write_run(tmp_path / place, classifier_directory, content, place)) == {}


def test_only_a_student_was_trained_on_texts_without_labels(classifier_directory, tmp_path):
    data = {"train": "train.tsv", "unlabelled": "more.csv"}
    for role, has_unlabelled in (("teacher", False), ("baseline", False), ("student", True)):
        content = json.dumps({"role": role, "settings": {"data": data}})
        model = write_run(tmp_path / role, classifier_directory, content)
        assert ("unlabelled" in run_facts(model)["data"]) == has_unlabelled


def test_the_card_of_a_model_that_transformers_refuses_does_not_offer_it(tmp_path):
    write_model(tmp_path, head=True, num_labels=2, labels=("a", "b"), classifier_pooling="mean")
    text = model_card(directory_card(tmp_path))
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "jaxbrewer"
    assert "pipeline_tag" not in front
    assert "`transformers` cannot load it" in text
    assert "from transformers" not in text
    assert "jaxbrewer predict MODEL" in text


def run_programs(card, directory):
    """Runs the programs of a card that need jaxbrewer alone; returns what they print."""
    programs = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    programs = [text for text in programs if "import pipeline" not in text]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for text in programs:
            exec(text.replace("MODEL", str(directory)), {})
    return printed.getvalue()


@pytest.mark.slow
def test_the_programs_of_a_card_run(classifier_directory):
    card = model_card(directory_card(classifier_directory))
    assert "probabilities" in run_programs(card, classifier_directory)
    assert 'pipeline("text-classification", model="MODEL")' in card
    assert "The longest input is 16 tokens" in card


def test_the_card_of_a_baseline_has_the_settings_of_its_student(classifier_directory, tmp_path):
    settings = {
        "teacher": {"optimization": {"learning_rate": 5e-5}},
        "student": {"optimization": {"learning_rate": 0.001}},
        "distillation": {"temperature": 4},
    }
    content = json.dumps({"role": "baseline", "settings": settings})
    found = run_facts(write_run(tmp_path / "run", classifier_directory, content))["settings"]
    assert found == {"student.optimization.learning_rate": 0.001}


def test_a_card_is_written_without_results(classifier_directory, tmp_path):
    assert run_facts(tmp_path / "nowhere") == {}
    for content in ("[1]", "{", '{"rows": 3, "settings": [], "test": "x"}'):
        model = write_run(tmp_path / str(hash(content)), classifier_directory, content)
        assert run_facts(model) == {}
        assert "## Results" not in model_card(directory_card(model))


def test_what_users_wrote_stays_in_its_cell():
    facts = CardFacts(name="a\n# b", model_type="bert", task="x", results=[{"m|": "1|2\n3"}])
    text = model_card(facts)
    assert "# a # b\n" in text
    assert "| m\\| |\n|---|\n| 1\\|2 3 |" in text
