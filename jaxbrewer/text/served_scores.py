"""Log-probabilities of tokens that were computed elsewhere, as files hold them.

A file has one of these forms:

* JSONL of vLLM's completions: ``choices[0].prompt_logprobs``, one entry per token of the text;
* JSONL of chat completions (OpenAI, vLLM): ``choices[0].logprobs.content[].top_logprobs``, one
  entry per token of the answer;
* Parquet with a row per token: ``example``, ``position``, ``token``, ``ids``, and ``logprobs`` or
  ``logits`` with ``log_tail``.

A line of JSONL may be the response, or ``{"response": {"body": ...}}`` of a batch job. Its example
is ``"example"``, a number in ``"custom_id"``, or else the number of the line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, missing_extra, reason_of, suggest
from .responses import IdOf, read_responses
from .scored_tokens import ScoredTokens

_ROWS = 8192
"""Tokens per chunk, about."""

_COLUMNS = ("example", "position", "token", "ids")


def read_scores(path: str | Path, id_of: IdOf) -> Iterator[ScoredTokens]:
    """Yields the tokens of a file in chunks.

    Args:
        path: A file ``.jsonl`` or ``.parquet``.
        id_of: The id of a token of a chat completion; see
            :func:`~jaxbrewer.text.responses.read_responses`.

    Raises:
        UsageError: The file cannot be read, or a line has none of the forms.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix == ".jsonl":
        yield from read_responses(path, id_of)
    else:
        raise UsageError(f"{path}: {suggest(path.suffix, ['.jsonl', '.parquet'])}")


def metadata_of(path: str | Path) -> dict[str, Any]:
    """What an exported cache says of its origin; ``{}`` for other files."""
    if Path(path).suffix != ".parquet":
        return {}
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("parquet", "pyarrow") from None
    try:
        found = pyarrow.parquet.read_schema(path).metadata or {}
        return json.loads(found.get(METADATA, b"{}"))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read: {_reason(error)}.") from None


METADATA = b"jaxbrewer"
"""The key of the metadata of an exported file."""


def _reason(error: BaseException) -> str:
    return " ".join(reason_of(error).split())[:200]


def _parquet(path: Path) -> Iterator[ScoredTokens]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("parquet", "pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names, start = file.schema_arrow.names, 0
            scores = "logprobs" if "logprobs" in names else "logits"
            wanted = [*_COLUMNS, scores, *(["log_tail"] if scores == "logits" else [])]
            for name in wanted:
                if name not in names:
                    raise UsageError(f"{path}: no column {name!r}: {suggest(name, names)}")
            for batch in file.iter_batches(_ROWS, columns=wanted):
                yield _of_table(batch, start, scores, path)
                start += len(batch)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read: {_reason(error)}.") from None


def _of_table(batch: Any, start: int, scores: str, path: Path) -> ScoredTokens:
    """The rows of a table's batch, whose lists become padded arrays."""
    import pyarrow

    def number(name: str) -> np.ndarray:
        column = batch.column(name)
        if column.null_count or not pyarrow.types.is_integer(column.type):
            raise UsageError(f"{path}: the column {name!r} must hold integers, got {column.type}.")
        return column.to_numpy().astype(np.int64)

    def padded(name: str, fill: float, kind: str) -> np.ndarray:
        column = batch.column(name)
        is_list = pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)
        if not is_list or column.null_count:
            raise UsageError(f"{path}: the column {name!r} must hold lists, got {column.type}.")
        values = column.flatten().to_numpy(zero_copy_only=False)
        if values.dtype.kind not in kind:
            raise UsageError(f"{path}: the column {name!r} must hold numbers, got {column.type}.")
        counts = np.diff(column.offsets.to_numpy())
        inside = np.arange(counts.max(initial=0)) < counts[:, None]
        array = np.full(inside.shape, fill, np.int64 if kind == "iu" else values.dtype)
        array[inside] = values
        return array

    ids, values = padded("ids", -1, "iu"), padded(scores, -np.inf, "f")
    if ids.shape != values.shape or ((ids == -1) & (values > -np.inf)).any():
        raise UsageError(
            f"{path}: rows {start + 1} to {start + len(ids)} have other numbers of ids than of "
            f"{scores}."
        )
    return ScoredTokens(
        start + 1 + np.arange(len(ids)),
        number("example"),
        number("position"),
        False,
        number("token"),
        ids,
        values,
        padded("log_tail", -np.inf, "f") if scores == "logits" else None,
    )
