"""``jaxbrewer completion``: what the shells complete."""

import shutil
import subprocess

import pytest

from jaxbrewer.cli import main
from tests.cli.conftest import run


def completed(words, tmp_path):
    """What bash proposes for the last of ``words``."""
    (tmp_path / "completion.bash").write_text(run("completion", "bash"))
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source {tmp_path}/completion.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        f"COMP_LINE='{' '.join(words)}'; _shtab_jaxbrewer jaxbrewer '{words[-1]}' '{words[-2]}'; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [shutil.which("bash"), "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash is installed")
def test_bash_completes_commands_flags_and_files(tmp_path):
    (tmp_path / "job.yaml").touch()
    assert completed(["jaxbrewer", "dis"], tmp_path) == ["distill"]
    assert completed(["jaxbrewer", "distill", "--dry"], tmp_path) == ["--dry-run"]
    assert "--student.layers" in completed(["jaxbrewer", "distill", "--student."], tmp_path)
    assert completed(["jaxbrewer", "train", "jo"], tmp_path) == ["job.yaml"]
    assert completed(["jaxbrewer", "cache", "bui"], tmp_path) == ["build"]


def test_every_shell_gets_a_script_that_names_the_commands():
    for shell in ("bash", "zsh", "tcsh"):
        assert "distill" in run("completion", shell)


def test_an_unknown_shell_is_refused_in_one_line(capsys):
    assert main(["completion", "fish"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'bash', 'zsh', 'tcsh'" in line
