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


def block(section, kind):
    return re.search(rf"```{kind}\n(.*?)```", SECTIONS[section], re.DOTALL)[1]


def test_the_page_has_the_tasks_of_its_table():
    named = re.findall(r"^\| \[`([\w-]+)`\]\(#", PAGE, re.MULTILINE)
    jobs = [yaml.safe_load(block(section, "yaml"))["data"]["task"] for section in SECTIONS]
    assert jobs == named


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_job_of_the_page_trains_on_its_lines(section, data, tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text(block(section, "jsonl"))
    (tmp_path / "job.yaml").write_text(block(section, "yaml"))
    monkeypatch.chdir(tmp_path)
    assert "All checks passed" in run(
        "train", "job.yaml", "--dry-run", "--teacher.path", data / "base"
    )


def test_the_conll_lines_of_the_page_are_read(tmp_path):
    from jaxbrewer.text.tagged import read_tagged

    (tmp_path / "a.conll").write_text(block("Token classification", "conll"))
    assert read_tagged(tmp_path / "a.conll").sentences == [["Ada", "Lovelace", "sleeps"]]
