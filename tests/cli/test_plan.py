"""``jaxbrewer plan``: numbers of a compiled step, on devices that are not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxbrewer.cli import main
from tests.cli.conftest import write_model
from tests.pages import page_output, require_form

ROOT = Path(__file__).parent.parent.parent


def bytes_of(text):
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_a_mesh_larger_than_the_machine_is_refused_with_the_remedy(job, capsys):
    assert main(["plan", str(job), "--training.mesh", "{fsdp: 4}"]) == 2
    assert "needs 4 devices, and 1 are here: add --devices 4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_counts_memory_of_each_device_and_work(content, job, tmp_path):
    teacher = write_model(tmp_path / "big", hidden_size=128, intermediate_size=256, head=True,
                          num_labels=3, labels=("cat", "dog", "fox"))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "jaxbrewer", "plan", str(job), "--devices", "4",
         "--teacher.path", str(teacher), "--training.mesh", "{fsdp: 4}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["devices"] == "4, fake CPU devices"
    assert rows["mesh"] == "fsdp 4"
    weights = (teacher / "model.safetensors").stat().st_size
    assert bytes_of(rows["teacher"]) == pytest.approx(weights / 4, rel=0.1)
    assert bytes_of(rows["optimizer"]) == pytest.approx(2 * bytes_of(rows["student"]), rel=0.05)
    # A multiply and an add for each weight and token: the teacher forwards, one of its two layers,
    # which is the student, forwards and twice backwards.
    work = 2 * (weights / 4) * 16 * 8 * (1 + 3 / 2) / 4
    assert float(rows["FLOPs per step"]) == pytest.approx(work, rel=0.5)
    assert "all-gather" in done.stdout
    shown = page_output("scaling.md", "$ jaxbrewer plan")
    shown[1] = shown[1].replace("data 2 x ", "")
    kinds = r"^Communication: .*"
    require_form(
        [re.sub(kinds, "Communication:", line) for line in shown],
        [re.sub(kinds, "Communication:", line) for line in done.stdout.splitlines()],
    )
    assert not (tmp_path / "run").exists()
