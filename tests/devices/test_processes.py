"""Several processes on one machine train as one, and all end when one fails."""

import contextlib
import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SPLIT = {"mesh": {"data": 2, "fsdp": 2}}
pytestmark = pytest.mark.slow


def start(forks, processes, directory, settings):
    directory.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        forks.start(
            *("-m", "tests.devices.one_of_many", port, processes, index),
            *(directory, json.dumps(settings)),
            stderr=directory / f"errors{index}",
            JAX_NUM_CPU_DEVICES=str(4 // processes),
        )
        for index in range(processes)
    ]


@contextlib.contextmanager
def running(forks, processes, directory, settings):
    started = start(forks, processes, directory, settings)
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def train(forks, processes, directory, settings):
    with running(forks, processes, directory, settings) as started:
        for index, process in enumerate(started):
            assert process.wait(timeout=300) == 0, (directory / f"errors{index}").read_text()
    return directory


@pytest.fixture(scope="module")
def alone(forks, tmp_path_factory):
    return train(forks, 1, tmp_path_factory.mktemp("alone") / "1", SPLIT)


LOCAL = {**SPLIT, "local_batches": True}


@pytest.mark.parametrize(
    ("processes", "settings"),
    [(2, SPLIT), (2, LOCAL), pytest.param(4, LOCAL, marks=pytest.mark.exhaustive)],
)
def test_several_processes_give_the_numbers_of_one(forks, alone, tmp_path, processes, settings):
    """The same script and config; whole batches in every process, or each its own rows."""
    together = train(forks, processes, tmp_path / "run", settings)
    expected = json.loads((alone / "seen0.json").read_text())
    assert [step for step, _ in expected["called"]] == [2, 4]
    for index in range(processes):
        seen = json.loads((together / f"seen{index}.json").read_text())
        np.testing.assert_allclose(seen["losses"], expected["losses"], rtol=1e-6)
        with np.load(together / f"weights{index}.npz") as weights, \
                np.load(alone / "weights0.npz") as reference:  # fmt: skip
            assert sorted(weights) == sorted(reference)
            for name in weights:
                np.testing.assert_allclose(weights[name], reference[name], rtol=1e-4, atol=1e-5)
        if index:  # callbacks and progress are process 0's
            assert seen["called"] == []
            assert (together / f"errors{index}").read_text() == ""
        else:
            np.testing.assert_allclose(seen["called"], expected["called"], rtol=1e-3)
            assert (together / "errors0").read_text().rstrip().splitlines()[-1][:8] == "step 4/4"
    lines = (together / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    saved = [path for path in (together / "run" / "checkpoints").iterdir() if path.name.isdecimal()]
    assert sorted(int(path.name) for path in saved) == [2, 4]
    assert len(list((together / "logs").iterdir())) == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_others_in_bounded_time(forks, tmp_path, failing):
    with running(forks, 2, tmp_path / "run", {"mesh": {"data": -1}, "failing": failing}) as started:
        assert started[failing].wait(timeout=300) == 1
        ended = time.monotonic()
        assert started[1 - failing].wait(timeout=60) != 0
        assert time.monotonic() - ended < 30
    assert "RuntimeError: this process fails" in (tmp_path / "run" / f"errors{failing}").read_text()
    assert (tmp_path / "run" / f"errors{1 - failing}").read_text()
