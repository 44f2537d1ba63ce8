"""How long a training takes to start: BERT-base with a student of 6 layers, in fresh processes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..common import Row

ROUNDS = 3
_KEEPS_EVERYTHING = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PROGRAM = Path(__file__).with_name("first_step.py")


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """The first step, that of a second ``train()``, and that of a second process."""
    layers, width, rounds = (1, 24, 1) if is_toy else (12, 768, ROUNDS)
    found: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for process in found:
                found[process].append(_first_steps(layers, width, cache))

    def seconds(process: str, name: str) -> np.ndarray:
        return np.array([one[name] for one in found[process]])

    whole = seconds("first", "training")
    for name in ("imports", "models", "training"):
        yield Row("starting", name, float(np.median(seconds("first", name))), "s",
                  "until the first step has finished" if name == "training" else "")  # fmt: skip
    for name, part in (
        ("a second train() / the first", seconds("first", "second training")),
        ("a second process with a compilation cache / the first", seconds("second", "training")),
    ):
        yield Row("starting", name, float(np.median(part / whole)), "x", "")


def _first_steps(layers: int, width: int, cache: str) -> dict[str, float]:
    environment = {**os.environ, **_KEEPS_EVERYTHING, "JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, PROGRAM, str(layers), str(width)],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))
