"""A run resumes on another number of devices, and with several processes."""

import signal
import socket
import time

import pytest

from tests.recovery import assert_same, left_behind


@pytest.mark.slow
def test_a_run_moves_between_one_device_and_eight(forks):
    seen = forks.results("tests.recovery.eight_devices", 8)
    assert seen["same"]  # on the same devices, bit by bit
    assert seen["sums"]  # checksums do not depend on the sharding
    assert seen["moved"] < 1e-5
    assert seen["spread"] < 1e-5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(forks, directory):
    port = free_port()
    directory.mkdir(exist_ok=True)
    return [
        forks.start(
            *("-m", "tests.recovery.several_processes", port, number, 2, directory, 60),
            stderr=directory / f"errors{number}",
        )
        for number in range(2)
    ]


def ends_of(processes, directory):
    """Exit statuses and standard error."""
    statuses = [process.wait(120) for process in processes]
    return statuses, [(directory / f"errors{number}").read_text() for number in range(2)]


@pytest.mark.slow
def test_two_processes_save_at_the_same_step_on_sigterm_and_resume(forks, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    statuses, said = ends_of(start_two(forks, unbroken), unbroken)
    assert statuses == [0, 0], said
    processes = start_two(forks, broken)
    metrics = broken / "run" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert processes[0].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = ends_of(processes, broken)
    assert statuses == [143, 143], said
    assert "resume=True continues" in said[0]
    assert "resume=True" not in said[1]
    last = max(left_behind(broken / "run")["checkpoints"])
    assert last < 60
    statuses, said = ends_of(start_two(forks, broken), broken)
    assert statuses == [0, 0], said
    assert_same(
        left_behind(unbroken / "run", unbroken / "logs"),
        left_behind(broken / "run", broken / "logs"),
    )
