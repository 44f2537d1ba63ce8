"""Quantized ONNX files: int8 weights per channel, activations quantized as they come."""

import logging
from pathlib import Path

from .files import library, runtime


def quantize(source: Path, target: Path) -> None:
    """Quantizes the weights of all matrix products and embeddings, by onnxruntime.

    Args:
        source: An ONNX file of this package.
        target: The file to write, about a quarter of the size.

    Raises:
        UsageError: ``onnx`` or ``onnxruntime`` is not installed.
    """
    library(), runtime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that such a graph does not need
    try:
        quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8, per_channel=True)
    finally:
        root.setLevel(level)
