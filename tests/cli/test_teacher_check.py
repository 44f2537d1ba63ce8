"""A teacher that is worse than a linear model on words is reported before its distillation."""

import json
import sys

import pytest
import yaml

from tests.cli.conftest import run

pytestmark = pytest.mark.slow
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


def test_a_teacher_worse_than_a_linear_model_is_reported(untrained, capsys, monkeypatch):
    printed = run("train", untrained)
    lines = [line for line in capsys.readouterr().err.splitlines() if "linear model" in line]
    assert len(lines) == 1
    assert "The teacher is worse than a linear model on words: accuracy 0." in lines[0]
    assert "--teacher.optimization.min_steps" in lines[0]
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

    monkeypatch.setitem(sys.modules, "sklearn", None)
    printed = run("distill", untrained, "--training.overwrite", "true")
    assert printed.count("Not checked: whether the teacher is better than a linear model") == 1
    assert "linear model" not in capsys.readouterr().err
    results = json.loads((untrained.parent / "run" / "student" / "results.json").read_text())
    assert "linear_baseline" not in results
