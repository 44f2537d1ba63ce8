"""``jaxbrewer predict``: a line of JSON for each example of a file or of standard input."""

import contextlib
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..errors import UsageError, reason_of
from ..models.model_directory import read_text_model
from ..text import Task
from ..text.model import load_source, make_task
from ..text.rows import NumberedRows, Rows, UnknownFormat, read_rows, read_stream
from .config import read_data_fields
from .messages import report_progress, report_wait

_BATCHES_PER_CHUNK = 16
"""Batches of a file that are read, and sorted by length, at a time."""

_STANDARD_INPUT = "standard input"


def predict(
    path: Path,
    file: str,
    given: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    batch_size: int = 64,
    output: Path | None = None,
) -> None:
    """Writes what a model predicts for each example, in the order of the file.

    Memory does not depend on the number of examples.

    Args:
        path: A model directory.
        file: A file with texts, or ``-`` for standard input.
        given: Fields of :class:`DataConfig`.
        overrides: Overrides of the fields of ``data``.
        batch_size: Texts per batch; the texts of standard input are read in such batches.
        output: A file in place of standard output, which appears once it is complete.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}.")
    source = read_text_model(path)
    task = make_task(source, {**read_data_fields(path, overrides), **given})
    is_file = file != "-"
    name = file if is_file else _STANDARD_INPUT
    rows = read_rows(file) if is_file else read_stream(sys.stdin.buffer, name, text=task.data.text)
    size = batch_size * _BATCHES_PER_CHUNK if is_file else batch_size
    chunks = _chunks(task, rows, name, size)
    try:
        first = next(chunks, None)
    except UnknownFormat as error:
        raise UsageError(
            f"{error} For one text per line: jaxbrewer predict {path} - < {file}"
        ) from None
    if first is None and is_file:
        raise UsageError(f"{file} is empty: it has no examples.")
    report_wait("loading JAX and the model")
    model = load_source(source, task)
    is_shown, done = output is None and sys.stdout.isatty(), 0
    with _writer(output) as written:
        for examples in itertools.chain([] if first is None else [first], chunks):
            for prediction in model.decode(examples, batch_size=batch_size):
                written.write(json.dumps(_plain(prediction)) + "\n")
            written.flush()
            done += len(examples)
            if not is_shown:
                report_progress(done)
    if not is_shown:
        report_progress(done, done)


def _chunks(task: Task[Any], rows: NumberedRows, name: str, size: int) -> Iterator[Any]:
    while chunk := tuple(itertools.islice(rows, size)):
        yield task.read_unlabelled(Rows(chunk, name))


@contextlib.contextmanager
def _writer(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that gets its name when it is complete."""
    if output is None:
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {reason_of(error)}.") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A value that JSON can hold.

    Numbers have the shortest form that is the same in float32; those that are not finite are
    ``None``.

    Examples:
        >>> _plain({"cat": 0.9700000286102295, "dog": float("nan")})
        {'cat': 0.97, 'dog': None}
    """
    if isinstance(value, float):
        return float(str(np.float32(value))) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
