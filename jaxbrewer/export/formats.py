"""The names of formats and of their file; imports no JAX, so that commands can check first."""

import os
from pathlib import Path

from ..errors import UsageError, suggest
from ..models.model_types import NOT_IN_TRANSFORMERS

METADATA = "export.json"
"""The file that every export has: its format, inputs and outputs, and the comparison."""

ONNX_FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
"""Where the tools of Hugging Face look for ONNX files."""

MODEL_FILES = {
    ("hf", False): "model.safetensors",
    ("onnx", False): ONNX_FILE,
    ("onnx", True): INT8_FILE,
    ("sentence-transformers", False): "model.safetensors",
    ("stablehlo", False): "model.stablehlo",
}
"""The file of the model, by the format and whether its weights are int8."""

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


def check_readable(format: str, model_type: str) -> None:
    """Refuses a directory for ``transformers`` of a model that it cannot load.

    Raises:
        UsageError: The format is ``"hf"``, and ``transformers`` refuses the model.

    Examples:
        >>> check_readable("hf", "mean_pooled_bert")
        Traceback (most recent call last):
        jaxbrewer.errors.UsageError: transformers cannot load this model, of type
        'mean_pooled_bert' (classifier_pooling 'mean' has no counterpart there): export it in the
        format 'onnx' or 'stablehlo', or train it with classifier_pooling 'cls', the default.
    """
    if format == "hf" and model_type in NOT_IN_TRANSFORMERS:
        raise UsageError(
            f"transformers cannot load this model, of type {model_type!r} "
            f"({NOT_IN_TRANSFORMERS[model_type]}): export it in the format 'onnx' or 'stablehlo', "
            "or train it with classifier_pooling 'cls', the default."
        )


def is_export(directory: Path) -> bool:
    """Whether a directory is an export, not a model that a training has saved."""
    return os.path.isfile(directory / METADATA)
