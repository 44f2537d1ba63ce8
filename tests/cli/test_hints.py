"""What an error or a dry run proposes where a user went a wrong way."""

import re

import pytest

from tests.cli.conftest import run
from tests.cli.test_bad_input import refused


@pytest.mark.parametrize("name", ["train.tsv", "more.csv", "test.jsonl"])
@pytest.mark.parametrize("command", ["train", "distill", "inspect"])
def test_a_file_of_texts_is_not_a_job(data, capsys, command, name):
    assert f"{name} is a file of texts, not a job" in refused(capsys, command, data / name)


def test_mistyped_names_get_the_nearest(job, capsys):
    assert "did you mean 'distill'?" in refused(capsys, "distil", job)
    line = refused(capsys, "train", job, "--teacher.optimization.lr", 1)
    assert "did you mean 'learning_rate'?" in line


def test_a_wrong_separator_is_named(job, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("text;label\nit purrs;cat\n")
    line = refused(capsys, "train", job, "--data.train", tmp_path / "x.csv")
    assert "The file is separated by ';': CSV needs ','" in line


@pytest.mark.slow
def test_the_number_of_cut_texts_is_shown_before_the_training(job):
    assert "\ncut " not in run("train", job, "--dry-run")
    printed = run("train", job, "--dry-run", "--data.max_length", 5)
    assert re.search("^cut +[0-9]+ of 144 texts, at data.max_length 5; 95 % ", printed, re.M)


@pytest.mark.slow
def test_a_dry_run_works_beside_a_run(job, tmp_path, capsys):
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    (tmp_path / "run" / "teacher" / "manifest.json").write_text("{}")
    assert "already holds a run" in refused(capsys, "train", job)
    *_, line = run("train", job, "--dry-run").splitlines()
    assert re.search("^Without --dry-run the command is refused: .* already holds a run", line)
