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

DOCS = Path(__file__).parents[2] / "docs"
SHORTENED = re.compile(r"\.\.\.|step \d.*")
"""What stands for lines that a page leaves out, or that a terminal replaces."""


def output_of(page, command):
    """The lines that a page shows below a command, at the first such place."""
    text = (DOCS / page).read_text()
    shown = re.search(rf"^```\w*\n\$ {command}[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return shown[1].splitlines()


def form(line):
    """A line without its numbers, paths, sizes of tables and names of classes.

    Examples:
        >>> form("texts     600 labelled in glosses/train.tsv; 1,000 unlabelled in a/b.tsv")
        'texts # labelled in PATH; # unlabelled in PATH'
        >>> form("size               90.9 MB"), form("loss  0.7312 [0.7062, 0.7586]")
        ('size # B', 'loss # [#]')
    """
    line = re.sub(r"\bminilm\b|\bbert\.[\w.]+|[\w.-]*/[\w./-]*\w", "PATH", line)
    line = re.sub(r"^(classes +\d+: ).*", r"\1NAMES", line)
    line = re.sub(r"[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]\d+)?", "#", line)
    line = re.sub(r"#(, (#|\.\.\.))+", "#", line)
    line = re.sub(r"\b[kMG]?B\b", "B", line)
    return re.sub(r" +", " ", line).strip()


def require_form(shown, printed):
    """Raises if the lines that a page shows are not, in their order, among those printed."""
    printed, begin = [form(line) for line in "\n".join(printed).rstrip().splitlines()], 0
    parts = [[]]
    for line in shown:
        if SHORTENED.fullmatch(line):
            parts.append([])
        elif not line.startswith(("jaxbrewer: ", "Texts that were cut")):
            parts[-1].append(form(line))
    for part in filter(None, parts):
        places = [
            start
            for start in range(begin, len(printed) - len(part) + 1)
            if printed[start : start + len(part)] == part
        ]
        assert places, f"{part}\nis not in\n{printed[begin:]}"
        begin = places[0] + len(part)
    assert begin == len(printed)


def test_the_study_of_a_page_is_the_recorded_one(capsys):
    print_study(read_json(DOCS / "results" / "study" / "films.json", dict))
    shown = output_of("evaluation.md", "jaxbrewer study films.yaml")
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line.rstrip() for line in shown[1:-1]] == printed
    assert shown[-1] == "The study is in runs/films/study."


def errors_in_pages():
    """Each command of the block of errors, and the error below it."""
    text = (DOCS / "command-line.md").read_text()
    (block,) = (
        block
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if "distilation" in block
    )
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
    assert errors[:-1] == [shown for _, shown in found[:-1]]
    assert form(errors[-1]) == form(found[-1][1])  # has the shapes of the models


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["a  1", "..."], ["a  2", "b  1"]),
        (["a  1", "b  1"], ["a  1", "c  1", "b  1"]),
        (["a  1.5 MB"], ["a  1.5 ms"]),
    ],
)
def test_another_form_is_noticed(shown, printed):
    with pytest.raises(AssertionError):
        require_form(shown, printed)
