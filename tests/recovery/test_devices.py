"""A run resumes on another number of devices, and with several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recovery import assert_same, left_behind

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_a_run_moves_between_one_device_and_eight():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.recovery.eight_devices"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["same"]  # on the same devices, bit by bit
    assert seen["sums"]  # checksums do not depend on the sharding
    assert seen["moved"] < 1e-5
    assert seen["spread"] < 1e-5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(directory):
    port = str(free_port())
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.recovery.several_processes"),
                *(port, str(number), "2", str(directory), "60"),
            ],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def ends_of(processes):
    """Exit statuses and standard error."""
    said = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], said


@pytest.mark.slow
def test_two_processes_save_at_the_same_step_on_sigterm_and_resume(tmp_path):
    statuses, said = ends_of(start_two(tmp_path / "unbroken"))
    assert statuses == [0, 0], said
    processes = start_two(tmp_path / "broken")
    metrics = tmp_path / "broken" / "run" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert processes[0].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = ends_of(processes)
    assert statuses == [143, 143], said
    assert "resume=True continues" in said[0]
    assert "resume=True" not in said[1]
    last = max(left_behind(tmp_path / "broken" / "run")["checkpoints"])
    assert last < 60
    statuses, said = ends_of(start_two(tmp_path / "broken"))
    assert statuses == [0, 0], said
    assert_same(
        left_behind(tmp_path / "unbroken" / "run", tmp_path / "unbroken" / "logs"),
        left_behind(tmp_path / "broken" / "run", tmp_path / "broken" / "logs"),
    )
