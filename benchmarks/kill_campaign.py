"""Kills a training repeatedly, and compares its results with those of an uninterrupted one.

PYTHONPATH=. python benchmarks/kill_campaign.py --kills 30

Half of the kills come at a random moment. The other half come a random moment after a checkpoint
starts to be written. The training then resumes; when it ends, the next run starts in a new
directory.
"""

import argparse
import collections
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.fork_server import ForkServer
from tests.recovery import assert_same, left_behind


def saving(run):
    return list((run / "checkpoints").glob("*.orbax-checkpoint-tmp"))


def start(forks, directory):
    return forks.start("-m", "tests.recovery.trainings", "killed", directory)


def kill(process, directory, draw, whole):
    """Kills the process; its status, and whether a checkpoint was half written."""
    if draw.random() < 0.5:
        manifest, now = directory / "run" / "manifest.json", time.time()
        while process.poll() is None and (
            not manifest.exists() or manifest.stat().st_mtime < now - 0.1
        ):
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.9) * whole)
    else:
        skipped = draw.randrange(4)
        seen = set(saving(directory / "run"))
        while process.poll() is None and skipped >= 0:
            time.sleep(0.002)
            new = set(saving(directory / "run")) - seen
            seen |= new
            skipped -= len(new)
        time.sleep(draw.uniform(0, 0.15))
    process.kill()
    return process.wait(), bool(saving(directory / "run"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, counted = random.Random(arguments.seed), collections.Counter()
    forks = ForkServer()
    with tempfile.TemporaryDirectory() as place:
        for name in ("unbroken", "timed"):
            assert start(forks, Path(place) / name).wait() == 0
        manifest = Path(place) / "timed" / "run" / "manifest.json"
        whole = time.time() - manifest.stat().st_mtime
        expected = left_behind(Path(place) / "unbroken" / "run", Path(place) / "unbroken" / "logs")
        while counted["kills"] < arguments.kills:
            directory, status = Path(place) / f"run{counted['runs']}", None
            while status != 0:
                process = start(forks, directory)
                if counted["kills"] < arguments.kills:
                    status, half = kill(process, directory, draw, whole)
                else:
                    status, half = process.wait(), False
                if status != 0:
                    assert status == -signal.SIGKILL, status
                    counted["kills"] += 1
                    counted["while saving"] += half
                    counted["before the first checkpoint"] += not any(
                        path.name.isdecimal() for path in (directory / "run").glob("checkpoints/*")
                    )
            counted["runs"] += 1
            assert_same(expected, left_behind(directory / "run", directory / "logs"))
            print(dict(counted), "all equal so far", flush=True)
    forks.close()


if __name__ == "__main__":
    main()
