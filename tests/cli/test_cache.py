"""``jaxbrewer cache``: teacher outputs are stored, verified and trained from."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import yaml

from jaxbrewer.cache import Manifest
from jaxbrewer.cli import main

from .conftest import KINDS, run, write_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(content, data, tmp_path_factory):
    """A job whose teacher is finished, and the cache it has built."""
    place = tmp_path_factory.mktemp("cached")
    teacher = write_model(place / "teacher", head=True, num_labels=3, labels=tuple(KINDS))
    job = {
        **content,
        "teacher": {"path": str(teacher)},
        "student": {"layers": [1], "optimization": {"num_steps": 6, "learning_rate": 0.01}},
        "data": {**content["data"], "test": None},
        "training": {"progress": False, "output_dir": str(place / "run")},
    }
    path = place / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    printed = run("cache", "build", path, "--training.cache_dir", place / "cache")
    return place, path, printed


def test_a_cache_is_built_shown_and_verified(made):
    place, path, printed = made
    rows = dict(line.split("  ", 1) for line in printed.splitlines()[1:])
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert "reads 192 texts once" in printed
    assert rows["examples"] == "192, by example_id"
    assert rows["entries"] == "logits/0, hidden/2"
    assert rows["error"] == "none"
    assert {"teacher's digest", "tokenizer's digest", "data's digest", "precision"} <= rows.keys()
    assert run("cache", "stat", place / "cache") == "\n".join(printed.splitlines()[1:]) + "\n"
    assert run("cache", "verify", place / "cache").startswith("All 192 records")
    again = run("cache", "build", path, "--training.cache_dir", place / "cache")
    assert again == printed


def test_distilling_reads_the_cache(made, tmp_path):
    """That it is the live teacher's training is tested with the distillers."""
    place, path, _ = made
    words = "--distillation.intermediate_matches", "[]", "--training.output_dir", tmp_path
    printed = run("distill", path, *words, "--training.cache_dir", place / "cache")
    assert f"teacher's cache  {place / 'cache'}\n" in printed
    lines = (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite([json.loads(line)["unweighted_kd_loss"] for line in lines]).all()
    assert len(lines) == 6


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_a_mismatched_cache_is_refused_in_one_line(made, content, data, tmp_path, capsys):
    place, path, _ = made
    cache = ("--training.cache_dir", place / "cache")
    assert "has no training.cache_dir: give the directory of the cache" in refused(
        capsys, "cache", "build", path
    )
    message = refused(capsys, "cache", "build", path, *cache, "--storage", "float16")
    assert "is stored as {'kind': 'full'}, not as" in message
    assert "Storage.bits must be 4 to 16" in refused(
        capsys, "cache", "build", path, *cache, "--storage", "top_k", "--bits", "3"
    )
    message = refused(capsys, "distill", path, *cache, "--data.max_length", "5", "--dry-run")
    assert "differs in: data (fingerprint" in message
    assert "tokenizer" not in message
    message = refused(
        capsys, "distill", path, "--training.cache_dir", tmp_path / "none", "--dry-run"
    )
    assert "holds no teacher cache" in message
    for action in ("stat", "verify"):
        assert "holds no teacher cache" in refused(capsys, "cache", action, tmp_path)
        assert "takes no overrides" in refused(capsys, "cache", action, tmp_path, "--a.b", "1")
    assert "invalid choice: 'full8'" in refused(
        capsys, "cache", "build", path, "--storage", "full8"
    )


def test_a_job_resumes_an_interrupted_build(made, tmp_path, capsys):
    place, path, _ = made
    shutil.copytree(place / "cache", tmp_path / "cache")
    dataclasses.replace(Manifest.read(place / "cache"), complete=False).write(tmp_path / "cache")
    words = "distill", path, "--training.cache_dir", tmp_path / "cache", "--dry-run"
    assert "is not complete: build it again" in refused(capsys, *words)
    run(*words, "--distillation.is_caching_logits", "true")
    message = refused(
        capsys, *words, "--distillation.is_caching_logits", "true", "--data.max_length", "5"
    )
    assert "differs in: data (fingerprint" in message


def test_damage_is_exit_status_2(made, tmp_path, capsys):
    _, path, _ = made
    cache = tmp_path / "cache"
    printed = run("cache", "build", path, "--training.cache_dir", cache, "--storage", "top_k",
                  "--k", 2, "--distillation.intermediate_matches", "[]")  # fmt: skip
    assert "kind top_k, k 2, bits 8, temperatures [1.0, 2.0]" in printed
    assert "which is exact" in printed
    largest = max((cache / "records").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    for place in range(len(content) // 4, len(content) // 2):
        content[place] ^= 0xFF
    largest.write_bytes(content)
    message = refused(capsys, "cache", "verify", cache)
    assert "is damaged" in message
    assert message.count("\n") == 1
