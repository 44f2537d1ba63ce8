"""Output in the pages has the form of what the commands print; recorded numbers are equal."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from jaxbrewer.cli import main
from jaxbrewer.cli.study import print_study
from jaxbrewer.json_files import read_json
from tests.cli.conftest import KINDS, write_model
from tests.pages import form, page_block, page_output, require_form

DOCS = Path(__file__).parents[2] / "docs"


def test_the_study_of_a_page_is_the_recorded_one(capsys):
    print_study(read_json(DOCS / "results" / "study" / "films.json", dict))
    lines = page_output("evaluation.md", "$ jaxbrewer study films.yaml")
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line.rstrip() for line in lines[1:-1]] == printed
    assert lines[-1] == "The study is in runs/films/study."


def errors_in_pages():
    """Each command of the block of errors, and the error below it."""
    block = page_block("command-line.md", "$ jaxbrewer distill job.yaml --distilation")
    return re.findall(
        r"^\$ jaxbrewer ((?:.*\\\n)*.*)\n(jaxbrewer: error: .*)$", block, re.MULTILINE
    )


@pytest.mark.slow
def test_errors_in_the_page_are_what_its_commands_print(
    content, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    os.symlink(data, "glosses")
    os.symlink(data / "base", "minilm")
    write_model(tmp_path / "runs" / "glosses" / "teacher" / "model", head=True, num_labels=3,
                labels=tuple(sorted(KINDS)))  # fmt: skip
    Path("runs/glosses/teacher/manifest.json").write_text("{}")
    job = {**content, "training": {"progress": False, "output_dir": "runs/glosses"}}
    job["data"] = {**content["data"], "train": "glosses/train.tsv"}
    job["teacher"] = {**content["teacher"], "path": "minilm"}
    Path("job.yaml").write_text(json.dumps(job))
    found = errors_in_pages()
    assert len(found) == 6
    errors = []
    for command, _ in found:
        assert main(shlex.split(command.replace("\\\n", " "))) == 2
        errors.append(capsys.readouterr().err.splitlines()[-1])
    assert errors[:-1] == [error for _, error in found[:-1]]
    assert form(errors[-1]) == form(found[-1][1])  # has the shapes of the models


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        (["a  1", "..."], ["a  2", "b  1"]),
        (["a  1", "b  1"], ["a  1", "c  1", "b  1"]),
        (["a  1.5 MB"], ["a  1.5 ms"]),
    ],
)
def test_another_form_is_noticed(lines, printed):
    with pytest.raises(AssertionError):
        require_form(lines, printed)
