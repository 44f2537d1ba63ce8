"""Trainings as processes that can be killed.

``python -m tests.recovery.processes`` imports everything once and then forks a process for each
line it reads, ``<kind> <directory>``, whose number it prints; it prints its exit status when it
ends. Forking before JAX has started any device saves the imports, which take longer than the runs.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path


class Zygote:
    """Starts trainings, and kills them."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.recovery.processes"],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self._lines.get(timeout=120) == "ready"

    def _listen(self):
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def start(self, kind, directory):
        """Starts a training and returns its process number."""
        self._process.stdin.write(f"{kind} {directory}\n")
        self._process.stdin.flush()
        return int(self._lines.get(timeout=30))

    def status(self, timeout=120):
        """The exit status of the training that was started last; minus the signal if killed."""
        return int(self._lines.get(timeout=timeout))

    def killed_after(self, process, directory, seconds):
        """Kills a training ``seconds`` after it opens its directory; returns its exit status."""
        manifest, now = directory / "run" / "manifest.json", time.time()
        while not manifest.exists() or manifest.stat().st_mtime < now - 0.1:
            if (status := self.ended_within(0.01)) is not None:
                return status
        if (status := self.ended_within(seconds)) is not None:
            return status
        os.kill(process, signal.SIGKILL)
        return self.status()

    def killed_at(self, process, directory, rows, delay):
        """Kills a training ``delay`` seconds after it has written ``rows`` rows of metrics."""
        metrics = directory / "run" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows:
            if (status := self.ended_within(0.005)) is not None:
                return status
        if (status := self.ended_within(delay)) is not None:
            return status
        os.kill(process, signal.SIGKILL)
        return self.status()

    def ended_within(self, seconds):
        """The exit status, or ``None`` if the process runs longer."""
        with contextlib.suppress(queue.Empty):
            return self.status(seconds)
        return None

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._listener.join()
        self._process.stdout.close()


def main():
    """The loop of the process that forks."""
    import jaxbrewer.distillers  # the public names are loaded when they are first used
    from tests.recovery import trainings

    assert jaxbrewer.distillers
    print("ready", flush=True)
    for line in sys.stdin:
        kind, directory = line.split()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns of forks, but has no thread yet
            child = os.fork()
        if child == 0:
            signal.alarm(120)
            sys.stdin.close()
            os.dup2(2, 1)
            status = 1
            try:
                getattr(trainings, kind)(Path(directory))
                status = 0
            except SystemExit as end:
                status = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
