"""Real processes: SIGKILL at random moments, SIGTERM."""

import os
import random
import signal
import time

import pytest

from tests.recovery import assert_same, left_behind
from tests.recovery.processes import Zygote

pytestmark = pytest.mark.slow
KILLS = 4


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
    zygote.start("killed", tmp_path / "timed")
    assert zygote.status() == 0
    whole = time.time() - (tmp_path / "timed" / "run" / "manifest.json").stat().st_mtime
    draw, kills, status = random.Random(0), 0, None
    while status != 0:
        process = zygote.start("killed", broken)
        if kills < KILLS:
            status = zygote.killed_after(process, broken, draw.uniform(0.2, 0.8) * whole)
            kills += status == -signal.SIGKILL
        else:
            status = zygote.status()
        assert status in (0, -signal.SIGKILL)
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
