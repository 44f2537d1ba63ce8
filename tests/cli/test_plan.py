"""``jaxbrewer plan``: numbers of a compiled step, on devices that are not there."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from jaxbrewer.cli import main
from jaxbrewer.cli.output import format_bytes
from jaxbrewer.configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.devices.mesh import DeviceLayout
from jaxbrewer.models import BertConfig, BertForSequenceClassification
from jaxbrewer.text import Encoded, task_of
from jaxbrewer.text.training import make_distillation
from tests.cli.conftest import write_model
from tests.pages import PAGES, page_output, require_form

ROOT = Path(__file__).parent.parent.parent


def bytes_of(text):
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_a_mesh_larger_than_the_machine_is_refused_with_the_remedy(job, capsys):
    assert main(["plan", str(job), "--training.mesh", "{fsdp: 4}"]) == 2
    assert "needs 4 devices, and 1 are here: add --devices 4" in capsys.readouterr().err


class NotCompiled:
    """A step in place of a jitted one; its program has no size."""

    def __getattr__(self, name):
        return lambda *_: self

    def as_text(self):
        return ""

    def cost_analysis(self):
        return {}

    def memory_analysis(self):
        return types.SimpleNamespace(temp_size_in_bytes=0)


@pytest.fixture
def plan_of_the_page(monkeypatch):
    """The bytes on each device of the job of docs/scaling.md; nothing is allocated or compiled."""
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    teacher, student = (
        nnx.eval_shape(
            lambda layers=layers: BertForSequenceClassification(
                BertConfig(num_hidden_layers=layers, num_labels=6, **sizes), rngs=nnx.Rngs(0)
            )
        )
        for layers in (6, 3)
    )
    tokens, offsets = np.ones(64 * 128, np.int32), np.arange(65) * 128
    labels = {"labels": np.zeros(64, np.int32)}
    encoded = Encoded(tokens, tokens, offsets, columns=labels)
    parts = DistillationConfig(), OptimizationConfig(batch_size=64, num_steps=1), TrainingConfig()
    training = make_distillation(task_of(DataConfig()), teacher, student, encoded, *parts)
    monkeypatch.setattr("jaxbrewer.devices.estimate.jit_step", lambda *_: NotCompiled())

    def of(mesh):
        layout = DeviceLayout(AbstractMesh(tuple(mesh.values()), tuple(mesh)), [], [], False)
        monkeypatch.setattr("jaxbrewer.devices.estimate.make_layout", lambda _: layout)
        estimate = training.estimate()
        return {
            name: format_bytes(getattr(estimate, name))
            for name in ("teacher", "student", "optimizer", "batch")
        }

    return of


@pytest.mark.slow
def test_the_page_shows_the_bytes_of_its_models(plan_of_the_page):
    lines = page_output("scaling.md", "$ jaxbrewer plan")
    shown = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines if "  " in line}
    weights = plan_of_the_page({"data": 2, "fsdp": 4})
    assert {name: shown[name] for name in weights} == weights
    total = sum(map(bytes_of, [*weights.values(), shown["activations"]]))
    assert bytes_of(shown["total"]) == pytest.approx(total, abs=2e5)
    whole = plan_of_the_page({"data": 8})
    prose = " ".join(PAGES["scaling.md"].split())
    assert (
        f"With `{{data: 8}}` each device holds {whole['teacher']} of teacher, {whole['student']} "
        f"of student and {whole['optimizer']} of optimizer state"
    ) in prose


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
