"""The names of formats; imports no JAX, so that a command can check them first."""

from ..errors import UsageError, suggest

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
