"""The job and the commands of the README work as they stand, from a table of texts to an export."""

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import run, texts, write_model
from tests.pages import page_block

FEW_STEPS = [f"--{role}.optimization.num_steps=2" for role in ("teacher", "student")]


def write_csv(name, rows):
    Path(name).write_text("\n".join([",".join(row) for row in rows]) + "\n")


@pytest.mark.slow
def test_the_job_of_the_readme_trains_reports_and_exports(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "minilm", num_hidden_layers=6, max_position_embeddings=128)
    write_csv("train.csv", [("text", "label"), *texts(32, 0)])
    write_csv("test.csv", [("text", "label"), *texts(16, 1)])
    write_csv("unlabelled.csv", [("text",), *((text,) for text, _ in texts(16, 2))])
    Path("job.yaml").write_text(page_block("README.md", "# job.yaml"))
    for line in page_block("README.md", "jaxbrewer inspect").splitlines():
        program, command, *words = shlex.split(line, comments=True)
        assert program == "jaxbrewer"
        run(command, *words, *(FEW_STEPS if command in ("train", "distill") else []))
    assert "<svg" in Path("report.html").read_text()
    assert list(Path("runs/mine/student").rglob("*.onnx"))
