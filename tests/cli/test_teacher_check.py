"""A teacher that is worse than a linear model on words is reported before its distillation."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from jaxbrewer.cli.job_data import HeldOut
from jaxbrewer.cli.teacher_check import check_teacher
from jaxbrewer.configs import DataConfig
from jaxbrewer.text import Encoded, Examples, inference, task_of
from jaxbrewer.text.tasks import Predictions, Texts
from tests.cli.conftest import run
from tests.pages import form, page_block

UNTRAINED = {"num_steps": 1, "learning_rate": 0}


@pytest.fixture
def untrained(content, tmp_path):
    """A job whose teacher and student are hardly trained."""
    own = {
        **content,
        "teacher": {**content["teacher"], "optimization": UNTRAINED},
        "student": {"layers": [1], "optimization": UNTRAINED},
        "distillation": {"temperature": 2},
        "training": {"progress": False, "output_dir": str(tmp_path / "run")},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(own))
    return path


@pytest.mark.slow
def test_a_teacher_worse_than_a_linear_model_is_reported(untrained, capsys):
    printed = run("train", untrained)
    lines = [line for line in capsys.readouterr().err.splitlines() if "linear model" in line]
    assert len(lines) == 1
    assert "The teacher is worse than a linear model on words: accuracy 0." in lines[0]
    assert "--teacher.optimization.min_steps" in lines[0]
    page = page_block("auto.md", "jaxbrewer: The teacher").replace("validation.jsonl", "test.jsonl")
    assert form(lines[0]) == form(page)
    assert "Not checked" not in printed

    run("distill", untrained, "--student.optimization.num_steps", 1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "linear model" in line]
    assert len(lines) == 1
    for role in ("teacher", "student"):
        results = json.loads((untrained.parent / "run" / role / "results.json").read_text())
        found = results["linear_baseline"]
        assert found["is_teacher_worse"]
        assert found["examples"] == 32
        assert found["teacher"]["accuracy"] < found["linear"]["accuracy"] == 1
        assert found["teacher"]["accuracy"] == results["rows"]["teacher"]["metrics"]["accuracy"]


def test_both_scores_are_printed_where_the_teacher_is_better(monkeypatch, capsys):
    logits = Predictions({"logits": np.eye(2)})
    examples = Examples(["a fox", "some tea"], None, np.int32([0, 1]), ("animal", "drink"))
    task = task_of(DataConfig())
    monkeypatch.setattr(inference, "run_model", lambda *_: SimpleNamespace(predictions=logits))
    job = SimpleNamespace(config=SimpleNamespace(data=DataConfig(validation="dev.csv")))
    held_out = HeldOut(Texts(examples, Encoded(*[np.zeros(2, np.int32)] * 2, np.arange(3))), None)
    monkeypatch.setattr(task, "encode", lambda tokenizer, examples: held_out.validation.encoded)
    found = check_teacher(job, task, None, examples, held_out, None)
    assert not found["is_teacher_worse"]
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("The teacher is not worse than a linear model on words: accuracy 1.0000")
    assert line.endswith(" on 2 texts of dev.csv.")


def test_without_scikit_learn_a_line_says_what_is_not_checked(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    examples = Examples(["a fox"], None, np.int32([0]), ("animal", "drink"))
    held_out = HeldOut(None, Texts(examples, None))
    found = check_teacher(None, task_of(DataConfig()), None, examples, held_out, None)
    assert found is None
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("Not checked: whether the teacher is better than a linear model")


@pytest.mark.parametrize("task", ["token-classification", "language-modeling", "embeddings"])
def test_tasks_without_a_linear_model_are_not_checked(task, capsys):
    held_out = HeldOut(None, Texts(["some"], None))
    assert check_teacher(None, task_of(DataConfig(task=task)), None, ["x"], held_out, None) is None
    assert capsys.readouterr().out == ""
