"""The jobs and the example lines of docs/tasks.md."""

import re
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import run

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTIONS = {
    title: body
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    if "```yaml\ndata:\n  task:" in body
}


PLAIN = '{"text": "it often purrs"}\n{"text": "here it barks today"}\n'


def block(section, kind):
    return re.search(rf"```{kind}\n(.*?)```", SECTIONS[section], re.DOTALL)[1]


def training_jobs():
    """The jobs of the page that `train` runs, each with the example lines of its section."""
    for section, body in SECTIONS.items():
        lines = re.findall(r"```jsonl\n(.*?)```", body, re.DOTALL) or [PLAIN]
        for job in re.findall(r"```yaml\n(.*?)```", body, re.DOTALL):
            if "train" in yaml.safe_load(job)["data"]:
                yield pytest.param(job, lines[0], id=section)


def test_the_page_has_the_tasks_of_its_table():
    named = re.findall(r"^\| \[`([\w-]+)`\]\(#", PAGE, re.MULTILINE)
    jobs = [yaml.safe_load(block(section, "yaml"))["data"]["task"] for section in SECTIONS]
    assert jobs == named


@pytest.mark.slow
@pytest.mark.parametrize(("job", "lines"), list(training_jobs()))
def test_a_job_of_the_page_trains_on_its_lines(job, lines, data, tmp_path, monkeypatch):
    for name in ("train", "test"):
        (tmp_path / yaml.safe_load(job)["data"][name]).write_text(lines)
    (tmp_path / "job.yaml").write_text(job)
    monkeypatch.chdir(tmp_path)
    assert "All checks passed" in run(
        "train", "job.yaml", "--dry-run", "--teacher.path", data / "base", "--data.max_length", 16
    )


def test_the_conll_lines_of_the_page_are_read(tmp_path):
    from jaxbrewer.text.tagged import read_tagged

    (tmp_path / "a.conll").write_text(block("Token classification", "conll"))
    assert read_tagged(tmp_path / "a.conll").sentences == [["Ada", "Lovelace", "sleeps"]]
