"""``jaxbrewer export``: one table, and one line for whatever is wrong."""

import json
import re
import shutil

import pytest

from jaxbrewer.cli import main
from tests.cli.conftest import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "model"
    return write_model(directory, head=True, num_labels=3, labels=("cat", "dog", "fox"))


def run(capsys, *words):
    status = main(["export", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
def test_an_export_is_reported_and_verified_again(model, capsys, tmp_path):
    texts = tmp_path / "texts.tsv"
    texts.write_text("text\tlabel\nit purrs\tcat\nhere barks\tdog\n")
    out = tmp_path / "out"
    common = (model, "--output", out, "--texts", texts)
    status, printed, _ = run(capsys, *common, "--format", "stablehlo")
    assert status == 0
    assert "largest difference" in printed
    assert json.loads((out / "export.json").read_text())["parity"]["rows"] == 1 + 2 + 1
    status, printed, _ = run(capsys, *common, "--format", "hf", "--verify-only")
    assert (status, "stablehlo" in printed) == (0, True)
    status, _, error = run(capsys, *common, "--format", "hf")
    assert (status, error.count("\n")) == (2, 1)
    assert "out exists" in error

    content = bytearray((out / "weights.npz").read_bytes())
    content[-200] ^= 1
    (out / "weights.npz").write_bytes(content)
    status, _, error = run(capsys, *common, "--format", "hf", "--verify-only")
    assert (status, error.count("\n")) == (2, 1)
    assert "weights.npz is not the file that was exported" in error


@pytest.mark.slow
def test_the_default_output_is_beside_the_model_of_a_task_and_no_model_of_the_run(
    model, capsys, tmp_path
):
    models = tmp_path / "student" / "model"
    shutil.copytree(model, models / "cat")
    (tmp_path / "student" / "manifest.json").write_text("{}")
    status, printed, _ = run(capsys, models / "cat", "--format", "hf")
    assert status == 0
    assert (models / "cat-hf" / "README.md").exists()
    assert "cat-hf" in printed
    assert main(["inspect", str(tmp_path / "student")]) == 0
    assert re.search(r"^model +(.*)$", capsys.readouterr().out, re.MULTILINE)[1] == str(
        models / "cat"
    )


def test_the_tokenizer_of_another_model_is_one_line(model, capsys, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    with open(other / "vocab.txt", "a") as file:
        file.write("\n" + "\n".join(f"word{number}" for number in range(50)))
    status, _, error = run(capsys, other, "--format", "hf", "--output", tmp_path / "out")
    assert (status, error.count("\n")) == (2, 1)
    assert "it is the tokenizer of another model" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onxx"], "format 'onxx' is unknown: did you mean 'onnx'"),
        (["--format", "hf", "--int8"], "int8 is for the format 'onnx'"),
        (["--format", "hf", "--pooling", "mean"], "has no place for a pooling"),
        (["--format", "hf", "--texts", "missing.tsv"], "missing.tsv"),
        (["--format", "hf", "--output", "nowhere", "--verify-only"], "is not an exported model"),
        ([], "the following arguments are required: --format"),
    ],
)
def test_wrong_words_are_one_line(model, capsys, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(capsys, model, *words)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error


def test_a_column_that_is_not_there_is_named(model, capsys, tmp_path):
    texts = tmp_path / "texts.csv"
    texts.write_text("sentence\nit purrs\n")
    status, _, error = run(capsys, model, "--format", "hf", "--texts", texts)
    assert status == 2
    assert "has no column 'text' (--text): Allowed: 'sentence'" in error


def test_a_directory_that_is_no_model_is_one_line(capsys, tmp_path):
    status, _, error = run(capsys, tmp_path, "--format", "hf")
    assert (status, error.count("\n")) == (2, 1)
    assert "is not a model directory" in error
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_text("{}")
    _, _, error = run(capsys, tmp_path, "--format", "hf")
    assert "is not a model directory: it is the directory of a run" in error


def test_a_model_that_transformers_refuses_is_one_line(capsys, tmp_path):
    mean = {"num_labels": 2, "labels": ("a", "b"), "classifier_pooling": "mean"}
    directory = write_model(tmp_path / "mean", head=True, **mean)
    status, _, error = run(capsys, directory, "--format", "hf")
    assert (status, error.count("\n")) == (2, 1)
    assert "transformers cannot load this model" in error
