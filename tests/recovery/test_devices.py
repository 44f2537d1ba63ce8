"""A run goes on with another number of devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_run_moves_between_one_device_and_eight():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.recovery.eight_devices"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["same"]  # on the same devices, bit by bit
    assert seen["sums"]  # checksums do not see where arrays live
    assert seen["moved"] < 1e-5
    assert seen["spread"] < 1e-5
