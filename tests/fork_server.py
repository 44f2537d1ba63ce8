"""Programs run as processes that are forked from one that has imported JAX.

A new interpreter takes more than a second of processor time to import JAX, Flax, Optax and Orbax. A
:class:`ForkServer` imports them once. Each program is forked from it before JAX has started a
device, with its own directory, variables and output. A test whose subject is how a process
starts needs a new interpreter instead.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "flax.linen", "flax.nnx", "optax", "orbax.checkpoint", "yaml",
    "jaxbrewer.cli", "jaxbrewer.distillers", "jaxbrewer.models", "jaxbrewer.text", "tests.toys",
)  # fmt: skip
"""Modules that most programs need."""

LIMIT = 600
"""Seconds after which a program is killed."""


class Forked:
    """A running program; like :class:`subprocess.Popen`."""

    def __init__(self, pid, ask):
        self.pid, self.returncode = pid, None
        self._ask = ask

    def poll(self):
        """The exit status, minus the signal if one ended it, or ``None`` while it runs."""
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout=LIMIT):
        """The exit status; :class:`subprocess.TimeoutExpired` after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts programs, whose warnings are errors."""

    def __init__(self):
        command = [sys.executable, "-W", "error", "-m", "tests.fork_server"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def _ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments, cwd=ROOT, stdout=os.devnull, stderr=os.devnull, **environment):
        """Starts ``python ARGUMENTS``: a program's path, ``-m`` and a module, or ``-c`` and code.

        Args:
            *arguments: The program and what it is given.
            cwd: Its directory.
            stdout: The file of its output.
            stderr: The file of its errors.
            **environment: Variables that differ from this process's.
        """
        words = [str(word) for word in arguments]
        request = {"arguments": words, "cwd": str(cwd), "environment": environment}
        request |= {"stdout": str(stdout), "stderr": str(stderr)}
        return Forked(self._ask(request), self._ask)

    def run(self, *arguments, cwd=ROOT, timeout=LIMIT, **environment):
        """Runs a program to its end, as :func:`subprocess.run` does."""
        with tempfile.TemporaryDirectory() as place:
            files = {name: Path(place) / name for name in ("stdout", "stderr")}
            status = self.start(*arguments, cwd=cwd, **files, **environment).wait(timeout)
            texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
            return subprocess.CompletedProcess(arguments, status, **texts)

    def results(self, module, devices):
        """What a module prints last on this number of fake devices, JSON."""
        done = self.run("-m", module, JAX_NUM_CPU_DEVICES=str(devices))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def main():
    """Answers requests until standard input ends."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that a program's collections leave these objects, and their memory, alone
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            found, status = os.waitpid(request["poll"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if found else None
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # JAX warns of forks; it has no thread before
                reply = os.fork()
            if reply == 0:
                execute(**request)
                return
        print(json.dumps(reply), flush=True)


def execute(arguments, cwd, environment, stdout, stderr):
    """Becomes the program: the rest of this process is as if an interpreter had started it."""
    signal.alarm(LIMIT)
    for name, number in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    for name, value in environment.items():
        if name.startswith("JAX_") and os.environ.get(name) != value:  # was read by the import
            import jax

            jax.config.update(name.lower(), int(value) if value.isdecimal() else value)
        os.environ[name] = value
    match arguments:
        case ["-m", module, *_]:
            sys.argv = arguments[1:]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(code, {"__name__": "__main__"})
        case [path, *_]:
            sys.argv = arguments
            sys.path[0] = str(Path(path).absolute().parent)
            runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    main()
