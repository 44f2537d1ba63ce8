"""StableHLO: one program for CPU, CUDA and TPU with free batch and length, run by JAX alone.

``model.stablehlo`` is what ``jax.export`` serializes; ``weights.npz`` has the weights, the first
argument of the program. So the program stays small, and the weights are placed like any others.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..errors import UsageError, missing_extra
from .program import Program

PROGRAM, WEIGHTS = "model.stablehlo", "weights.npz"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(program: Program, folder: Path) -> None:
    """Writes ``model.stablehlo`` and ``weights.npz``.

    Raises:
        UsageError: ``flatbuffers``, with which JAX serializes, is not installed.
    """
    _require_flatbuffers()
    exported = jax.export.export(jax.jit(program.call), platforms=PLATFORMS)(*program.abstract())
    (folder / PROGRAM).write_bytes(exported.serialize())
    weights: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in program.weights.items()}
    np.savez(folder / WEIGHTS, **weights)


def load(folder: Path) -> Callable[[dict[str, Any]], dict[str, np.ndarray]]:
    """Reads the files of :func:`write`.

    Returns:
        A function from inputs to outputs, which compiles once for each shape.

    Raises:
        UsageError: A file is missing or damaged.
    """
    _require_flatbuffers()
    try:
        exported = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
        with np.load(folder / WEIGHTS) as file:
            weights = jax.device_put(dict(file))
    except Exception as error:  # flatbuffers and zipfile raise many kinds
        raise UsageError(
            f"{folder} holds no readable {PROGRAM} and {WEIGHTS}: {type(error).__name__}: "
            f"{str(error)[:200]}"
        ) from error
    call = jax.jit(exported.call)

    def run(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        narrow = {name: np.asarray(value, np.int32) for name, value in inputs.items()}
        return {name: np.asarray(value) for name, value in call(weights, narrow).items()}

    return run


def _require_flatbuffers() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise missing_extra("stablehlo", "flatbuffers") from None
