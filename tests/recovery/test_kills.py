"""Real processes: SIGKILL at random moments, SIGTERM."""

import random
import signal
import time

import pytest

from tests.recovery import assert_same, left_behind

pytestmark = pytest.mark.slow
KILLED_AT = (0, 3, 9, 15)
"""Rows of metrics after which a run of 24 steps is killed."""


def start(forks, kind, directory):
    directory.mkdir(exist_ok=True)
    words = ["-m", "tests.recovery.trainings", kind, directory]
    return forks.start(*words, stderr=directory / "errors")


def killed_at(process, directory, rows, delay):
    """Kills a training ``delay`` seconds after it has written ``rows`` rows of metrics."""
    metrics = directory / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows:
        if process.poll() is not None:
            break
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    return process.wait()


def test_a_run_killed_at_random_moments_equals_an_unbroken_run(forks, tmp_path):
    """``benchmarks/kill_campaign.py`` kills more often."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    # also fills the compile cache
    assert start(forks, "killed", unbroken).wait() == 0, (unbroken / "errors").read_text()
    draw, kills = random.Random(0), 0
    for rows in KILLED_AT:
        process = start(forks, "killed", broken)
        status = killed_at(process, broken, rows, draw.uniform(0, 0.2))
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert start(forks, "killed", broken).wait() == 0, (broken / "errors").read_text()
    assert kills > 0
    assert_same(
        left_behind(unbroken / "run", unbroken / "logs"),
        left_behind(broken / "run", broken / "logs"),
    )


def test_sigterm_saves_a_checkpoint_and_exits_with_143(forks, tmp_path):
    process = start(forks, "long", tmp_path)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    (step,) = left_behind(tmp_path / "run")["checkpoints"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == step
