"""The fast tests on the accelerator, in a process of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..common import Row

FOLDERS = ("losses", "objective", "forward", "step", "models", "data", "run", "properties")
"""Those that compute on the device, and need neither several devices nor the command line."""

SETTINGS = {
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def run(is_toy: bool, seconds: int, json: Path) -> Iterator[Row]:
    """Counts of passed and failed tests; the failures by name."""
    import jax

    root = Path(__file__).parents[2]
    paths = ["tests/losses/test_reduction.py"] if is_toy else [f"tests/{x}" for x in FOLDERS]
    platforms = f"{jax.devices()[0].platform},cpu".replace("gpu", "cuda").replace("cpu,cpu", "cpu")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider",
               "--tb=short", "--continue-on-collection-errors", *paths]  # fmt: skip
    try:
        import xdist  # noqa: F401

        command += [] if is_toy else ["-n", "8", "--dist", "loadfile"]
    except ImportError:
        pass
    log = json.with_suffix(".tests.log")
    with log.open("w") as output:
        try:
            subprocess.run(
                command, cwd=root, stdout=output, stderr=subprocess.STDOUT, timeout=seconds,
                env={**os.environ, **SETTINGS, "JAX_PLATFORMS": platforms}, check=False,
            )  # fmt: skip
            ended = ""
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds} s; "
    text = log.read_text()
    last = re.findall(r"(\d+) (passed|failed|errors?)", text.splitlines()[-1] if text else "")
    counts = {kind: int(number) for number, kind in last}
    yield Row("tests", "passed", counts.get("passed", 0), "", f"{ended}log in {log.name}")
    bad = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    yield Row("tests", "failed", len(bad), "", ", ".join(bad)[:2000])
