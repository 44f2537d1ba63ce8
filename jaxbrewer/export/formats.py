"""The names of formats and of their file; imports no JAX, so that commands can check first."""

import os
from pathlib import Path

from ..errors import UsageError, suggest

METADATA = "export.json"
"""The file that every export has: its format, inputs and outputs, and the comparison."""

FORMAT_NAMES = ("hf", "onnx", "sentence-transformers", "stablehlo")


def check_options(format: str, *, int8: bool = False, pooling: str | None = None) -> None:
    """Refuses what no format has.

    Raises:
        UsageError: The format or the pooling is unknown, or one does not go with the other.

    Examples:
        >>> check_options("onxx")
        Traceback (most recent call last):
        jaxbrewer.errors.UsageError: format 'onxx' is unknown: did you mean 'onnx'? Allowed: 'hf',
        'onnx', 'sentence-transformers', 'stablehlo'.
    """
    if format not in FORMAT_NAMES:
        raise UsageError(f"format {format!r} is unknown: {suggest(format, FORMAT_NAMES)}")
    if int8 and format != "onnx":
        raise UsageError(f"int8 is for the format 'onnx', got format {format!r}.")
    from ..models.pooling import POOLINGS  # help does without

    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r} is unknown: {suggest(pooling, POOLINGS)}")
    if pooling is not None and format == "hf":
        raise UsageError(
            "The format 'hf' has no place for a pooling: use the format 'sentence-transformers'."
        )


def is_export(directory: Path) -> bool:
    """Whether a directory is an export, not a model that a training has saved."""
    return os.path.isfile(directory / METADATA)
