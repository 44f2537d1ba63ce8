"""Real processes: SIGKILL at random moments, SIGTERM."""

import os
import random
import signal
import time

import pytest

from tests.recovery import assert_same, left_behind
from tests.recovery.processes import Zygote

pytestmark = pytest.mark.slow
KILLED_AT = (0, 3, 9, 15)
"""Rows of metrics after which a run of 24 steps is killed."""


@pytest.fixture(scope="module")
def zygote():
    process = Zygote()
    yield process
    process.close()


def test_a_run_killed_at_random_moments_equals_an_unbroken_run(zygote, tmp_path):
    """``benchmarks/kill_campaign.py`` kills more often."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    zygote.start("killed", unbroken)
    assert zygote.status() == 0  # also fills the compile cache
    draw, kills = random.Random(0), 0
    for rows in KILLED_AT:
        process = zygote.start("killed", broken)
        status = zygote.killed_at(process, broken, rows, draw.uniform(0, 0.2))
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    zygote.start("killed", broken)
    assert zygote.status() == 0
    assert kills > 0
    assert_same(
        left_behind(unbroken / "run", unbroken / "logs"),
        left_behind(broken / "run", broken / "logs"),
    )


def test_sigterm_saves_a_checkpoint_and_exits_with_143(zygote, tmp_path):
    process = zygote.start("long", tmp_path)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process, signal.SIGTERM)
    assert zygote.status(30) == 143
    (step,) = left_behind(tmp_path / "run")["checkpoints"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == step
