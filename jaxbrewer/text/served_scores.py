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
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..errors import UsageError, missing_extra, reason_of, shown, suggest

_ROWS = 8192
"""Tokens per chunk, about."""

_COLUMNS = ("example", "position", "token", "ids")


class ScoredTokens(NamedTuple):
    """Log-probabilities of the candidates for some tokens; rows of one example are adjacent.

    Attributes:
        lines: The line, or row, of the file, ``[tokens]``.
        examples: The number of the example, ``[tokens]``.
        places: The place of the token in its document, or among the tokens of its answers,
            ``[tokens]``.
        of_answer: Whether places count the tokens of answers alone.
        tokens: The token itself, ``[tokens]``; -1 where the file lists it among the candidates
            alone.
        ids: Candidates, ``[tokens, k]``; -1 where there are fewer.
        scores: Their log-probabilities or, with ``log_tail``, logits, ``[tokens, k]``.
        log_tail: Log-sum-exp of the other logits at each temperature, ``[tokens, t]``.
    """

    lines: Int[np.ndarray, " tokens"]
    examples: Int[np.ndarray, " tokens"]
    places: Int[np.ndarray, " tokens"]
    of_answer: bool
    tokens: Int[np.ndarray, " tokens"]
    ids: Int[np.ndarray, "tokens k"]
    scores: Float[np.ndarray, "tokens k"]
    log_tail: Float[np.ndarray, "tokens t"] | None = None


def read_scores(
    path: str | Path, id_of: Callable[[Mapping[str, Any]], int | None]
) -> Iterator[ScoredTokens]:
    """Yields the tokens of a file in chunks.

    Args:
        path: A file ``.jsonl`` or ``.parquet``.
        id_of: The id of a token of a chat completion, from its ``token`` and ``bytes``; ``None`` if
            it is none of the vocabulary.

    Raises:
        UsageError: The file cannot be read, or a line has none of the forms.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix == ".jsonl":
        yield from _jsonl(path, id_of)
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


class _Line(NamedTuple):
    """The tokens of one response."""

    places: list[int]
    tokens: list[int]
    ids: list[list[int]]
    scores: list[list[float]]

    def add(self, place: int, token: int, ids: list[int], scores: list[float]) -> None:
        """Appends a token."""
        self.places.append(place)
        self.tokens.append(token)
        self.ids.append(ids)
        self.scores.append(scores)


def _jsonl(path: Path, id_of: Callable[[Mapping[str, Any]], int | None]) -> Iterator[ScoredTokens]:
    lines: list[tuple[int, int, _Line]] = []
    of_answer, tokens = None, 0
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                where = f"{path}:{number}"
                row = _parsed(text, where)
                body = _body(row, where)
                choice = _choice(body, where)
                is_answer = choice.get("prompt_logprobs", body.get("prompt_logprobs")) is None
                if of_answer not in (None, is_answer):
                    raise UsageError(f"{where}: prompts and answers are scored in one file.")
                of_answer = is_answer
                line = _answer(choice, id_of, where) if is_answer else _prompt(choice, body, where)
                lines.append((number, _example(row, number, where), line))
                tokens += len(line.tokens)
                if tokens >= _ROWS:
                    yield _joined(lines, of_answer)
                    lines, tokens = [], 0
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    if lines:
        yield _joined(lines, bool(of_answer))


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid JSON: {_reason(error)}.") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: expected a JSON object, got {shown(row)}.")
    return row


def _body(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if row.get("error"):
        raise UsageError(f"{where} is an error of the server: {shown(row['error'])}.")
    response = row.get("response", row)
    body = response.get("body", response) if isinstance(response, Mapping) else response
    if not isinstance(body, Mapping):
        raise UsageError(f"{where} has no response.")
    return body


def _choice(body: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise UsageError(f"{where}: a response needs 'choices' with one entry, got {shown(body)}.")
    return choices[0]


def _example(row: Mapping[str, Any], number: int, where: str) -> int:
    if "example" in row:
        given = row["example"]
        if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
            return given
        raise UsageError(f"{where}: 'example' must be the number of a text, got {shown(given)}.")
    if "custom_id" in row:
        digits = re.search(r"(\d{1,15})$", str(row["custom_id"]))
        if digits is None:
            raise UsageError(
                f"{where}: 'custom_id' must end with the number of a text, got "
                f"{shown(row['custom_id'])}."
            )
        return int(digits[1])
    return number - 1


def _prompt(choice: Mapping[str, Any], body: Mapping[str, Any], where: str) -> _Line:
    """A scored text, of which the first token has no probability."""
    entries = choice.get("prompt_logprobs", body.get("prompt_logprobs"))
    given = choice.get("prompt_token_ids", body.get("prompt_token_ids"))
    if not isinstance(entries, list) or (given is not None and not _are_ids(given)):
        raise UsageError(f"{where}: 'prompt_logprobs' and 'prompt_token_ids' must be lists.")
    if given is not None and len(given) != len(entries):
        raise UsageError(
            f"{where}: {len(given)} prompt_token_ids, but {len(entries)} prompt_logprobs."
        )
    line = _Line([], [], [], [])
    for place, entry in enumerate(entries):
        if entry is None:
            continue
        try:
            ids = list(map(int, entry))
            scores = [float(value["logprob"]) for value in entry.values()]
            token = -1 if given is None else given[place]
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            raise UsageError(
                f"{where}: prompt_logprobs[{place}] must be {{token id: {{'logprob': number}}}}, "
                f"got {shown(entry)}."
            ) from None
        line.add(place, token, ids, scores)
    return line


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _answer(
    choice: Mapping[str, Any], id_of: Callable[[Mapping[str, Any]], int | None], where: str
) -> _Line:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        raise UsageError(
            f"{where} has neither 'prompt_logprobs' nor 'logprobs' with 'content': ask the server "
            "for log-probabilities."
        )
    line = _Line([], [], [], [])
    for place, entry in enumerate(content):
        what = f"{where}: logprobs.content[{place}]"
        try:
            pairs = [entry, *entry["top_logprobs"]]
            scores = [float(pair["logprob"]) for pair in pairs]
            ids = [id_of(pair) for pair in pairs]
        except (TypeError, ValueError, KeyError, AttributeError):
            raise UsageError(
                f"{what} must have token, logprob and top_logprobs, got {shown(entry)}."
            ) from None
        unknown = [pair for pair, number in zip(pairs, ids, strict=True) if number is None]
        if unknown:
            raise UsageError(
                f"{what}: {shown(unknown[0].get('token'))} is not one token of the tokenizer: ask "
                "the server for token ids (return_tokens_as_token_ids), or use its tokenizer."
            )
        known = [number for number in ids if number is not None]
        line.add(place, known[0], known, scores)
    return line


def _joined(lines: Sequence[tuple[int, int, _Line]], of_answer: bool) -> ScoredTokens:
    counts = [len(line.tokens) for _, _, line in lines]
    pairs = [len(ids) for _, _, line in lines for ids in line.ids]
    inside = np.arange(max(pairs, default=0)) < np.array(pairs, int)[:, None]
    ids = np.full(inside.shape, -1, np.int64)
    scores = np.full(inside.shape, -np.inf)
    try:
        ids[inside] = [number for _, _, line in lines for own in line.ids for number in own]
    except OverflowError:
        raise UsageError(
            f"Line {lines[0][0]} and after: a token id of more than 64 bits."
        ) from None
    scores[inside] = [value for _, _, line in lines for own in line.scores for value in own]
    flat = [token for _, _, line in lines for token in line.tokens]
    return ScoredTokens(
        np.repeat([number for number, _, _ in lines], counts),
        np.repeat(np.array([example for _, example, _ in lines], np.int64), counts),
        np.array([place for _, _, line in lines for place in line.places], np.int64),
        of_answer,
        np.array(flat, np.int64),
        ids,
        scores,
    )
