"""The benchmarks run at toy size; none of their numbers is asserted."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import fused_loss
from benchmarks.suite import __main__ as suite
from benchmarks.suite import growth, peers
from jaxbrewer.losses import _chunk_sizes
from tests.cli.conftest import write_model
from tests.pages import form, page_block
from tests.tiers import exhaustive_but

ROOT = Path(__file__).parent.parent
AS_USERS = {"JAX_NUMPY_RANK_PROMOTION": "allow", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
SECTIONS = {"behaviour", "numbers", "vocabulary", "decoder", "speed"}


@pytest.mark.slow
def test_every_section_for_accelerators_runs_on_a_cpu(forks, tmp_path):
    words = ["--toy", "--torch=", "--json", tmp_path / "numbers.json", "--only", *sorted(SECTIONS)]
    done = forks.run("-m", "benchmarks.accelerator", *words, **AS_USERS)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "numbers.json").read_text())
    assert report["failed"] == {}
    assert {row["section"] for row in report["rows"]} == SECTIONS


SIDES = (peers.OURS, f"{peers.OURS}, bfloat16, from the cache", "Keras Distiller")
"""Of the section of peers, each in its own process: without settings, with settings, another."""

CHEAP = ("overhead", "peers", "machine", "parts", "checkpoints")
"""Sections of a few seconds; the others run what tests of caches, inputs and models run."""


@pytest.mark.slow
@pytest.mark.parametrize("section", exhaustive_but(CHEAP, suite.SECTIONS))
def test_every_section_of_the_suite_runs(section, capsys, monkeypatch):
    before = set((ROOT / "docs").rglob("*"))
    monkeypatch.setattr(peers, "ENCODERS", [each for each in peers.ENCODERS if each.name in SIDES])
    monkeypatch.setattr(sys, "argv", ["suite", "--toy", "--only", section])
    suite.main()
    assert set((ROOT / "docs").rglob("*")) == before  # a toy run records nothing
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {section}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 5.0, 7.0], 1.0), ([4.0, 4.0, 4.001], 1.0), ([1.0, 2.0, 1.0], 0.0)],
)
def test_straightness_is_the_share_that_a_line_explains(values, expected):
    assert growth.straightness([1, 2, 3], values) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("memory", page_block("benchmarks.md", "$ python -m benchmarks.fused_loss memory")),
        ("time", page_block("benchmarks.md", "$ python -m benchmarks.fused_loss time")),
    ],
    ids=["memory", "time"],
)
def test_the_page_has_the_form_of_what_the_benchmark_of_losses_prints(
    what, shown, capsys, monkeypatch
):
    monkeypatch.setitem(_chunk_sizes.CHUNK_BYTES, "cpu", 0)  # the benchmark sets it
    sizes = "--positions 512 --classes 1024 --width 8 --teacher-width 8 --chunk-mb 1 --rounds 2"
    monkeypatch.setattr(sys, "argv", ["fused_loss", what, *sizes.split()])
    fused_loss.main()
    printed = {form(line) for line in capsys.readouterr().out.splitlines()}
    lines = [line for line in shown.splitlines() if not line.startswith("$ ")]
    assert lines
    assert {form(line) for line in lines} <= printed


@pytest.mark.slow
def test_exports_are_measured(forks, tmp_path):
    pytest.importorskip("onnxruntime")
    model = write_model(tmp_path / "model", head=True, num_labels=3, labels=("cat", "dog", "fox"),
                        max_position_embeddings=128)  # fmt: skip
    (tmp_path / "test.tsv").write_text("text\tlabel\nit purrs\tcat\nhere barks\tdog\n")
    words = [model, tmp_path / "test.tsv", "--runs", 1]
    done = forks.run("-m", "benchmarks.export", *words, **AS_USERS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| ONNX int8 |") == 1 + 4
