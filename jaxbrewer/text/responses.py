"""JSONL of an inference server's responses -> the log-probabilities of tokens.

Lines of scored prompts are decoded by msgspec (the extra ``jsonl``) if it is installed, which
skips what is not needed. It takes the plain form alone: the standard library reads all other lines,
such as those with ``-Infinity``, and explains errors.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..errors import UsageError, reason_of, shown
from .scored_tokens import ScoredTokens

_ROWS = 8192
"""Tokens per chunk, about."""

_NOT_PAIRS = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError)

IdOf = Callable[[Mapping[str, Any]], int | None]
"""The id of a token of a chat completion; see :func:`read_responses`."""


class _Line(NamedTuple):
    """The tokens of one response; the candidates of all tokens lie one after the other."""

    places: Int[np.ndarray, " tokens"]
    tokens: Int[np.ndarray, " tokens"]
    counts: Int[np.ndarray, " tokens"]
    ids: Int[np.ndarray, " candidates"]
    scores: Float[np.ndarray, " candidates"]


def read_responses(path: Path, id_of: IdOf) -> Iterator[ScoredTokens]:
    """Yields the tokens of a JSONL file in chunks.

    Args:
        path: The file.
        id_of: The id of a token of a chat completion, from its ``token`` and ``bytes``; ``None`` if
            it is none of the vocabulary.

    Raises:
        UsageError: The file cannot be read, or a line is no response with log-probabilities.
    """
    lines: list[tuple[int, int, _Line]] = []
    of_answer, tokens = None, 0
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                where = f"{path}:{number}"
                row, line, is_answer = _plain_prompt(text) or _read(text, id_of, where)
                if of_answer not in (None, is_answer):
                    raise UsageError(f"{where}: prompts and answers are scored in one file.")
                of_answer = is_answer
                lines.append((number, _example(row, number, where), line))
                tokens += len(line.tokens)
                if tokens >= _ROWS:
                    yield _joined(lines, of_answer)
                    lines, tokens = [], 0
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    if lines:
        yield _joined(lines, bool(of_answer))


def _read(text: bytes, id_of: IdOf, where: str) -> tuple[Mapping[str, Any], _Line, bool]:
    """The row of a line, its tokens, and whether they are an answer."""
    row = _parsed(text, where)
    body = _body(row, where)
    choice = _choice(body, where)
    is_answer = choice.get("prompt_logprobs", body.get("prompt_logprobs")) is None
    line = _answer(choice, id_of, where) if is_answer else _prompt(choice, body, where)
    return row, line, is_answer


@functools.cache
def _decoder_of_prompts() -> Any:
    """Decodes a scored prompt in the form that vLLM writes; ``None`` without msgspec."""
    try:
        import msgspec
    except ImportError:
        return None
    unset: Any = msgspec.UNSET

    pair = msgspec.defstruct("Pair", [("logprob", float)], gc=False)
    choice = msgspec.defstruct(
        "Choice",
        [
            ("prompt_logprobs", list[dict[int, pair] | None]),  # type: ignore[valid-type]
            ("prompt_token_ids", list[int] | None, None),
        ],
    )
    choices = [("choices", list[choice])]  # type: ignore[valid-type]
    body = msgspec.defstruct("Body", choices)
    response = msgspec.defstruct("Response", [("body", body)])
    row = msgspec.defstruct(
        "Row",
        [
            ("response", response | msgspec.UnsetType, unset),
            ("choices", list[choice] | msgspec.UnsetType, unset),  # type: ignore[valid-type]
            ("example", int | msgspec.UnsetType, unset),
            ("custom_id", str | int | msgspec.UnsetType, unset),
            ("error", None, None),
        ],
    )
    return msgspec.json.Decoder(row)


def _plain_prompt(text: bytes) -> tuple[Mapping[str, Any], _Line, bool] | None:
    """What :func:`_read` returns for a scored prompt of the plain form, else ``None``."""
    decoder = _decoder_of_prompts()
    if decoder is None:
        return None
    try:
        row = decoder.decode(text)
        (choice,) = row.choices or row.response.body.choices
        entries, given = choice.prompt_logprobs, choice.prompt_token_ids
        scored = [entry for entry in entries if entry is not None]
        ids = np.array([number for entry in scored for number in entry], np.int64)
        scores = np.array([pair.logprob for entry in scored for pair in entry.values()])
    except (*_NOT_PAIRS, RecursionError):  # msgspec's errors are ValueErrors
        return None
    if given is not None and len(given) != len(entries):
        return None
    names = ("example", "custom_id")
    keys = {name: value for name in names if isinstance(value := getattr(row, name), (int, str))}
    return keys, _line(entries, given, ids, scores.astype(np.float64)), False


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(reason_of(error).split())[:200]
        raise UsageError(f"{where} is not valid JSON: {reason}.") from None
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
    try:
        ids, scores = _pairs_of_prompt([entry for entry in entries if entry is not None])
        return _line(entries, given, ids, scores)
    except _NOT_PAIRS:
        place = next(i for i, e in enumerate(entries) if e is not None and not _is_pairs(e))
        raise UsageError(
            f"{where}: prompt_logprobs[{place}] must be {{token id: {{'logprob': number}}}}, "
            f"got {shown(entries[place])}."
        ) from None


def _line(
    entries: Sequence[Any], given: Sequence[int] | None, ids: np.ndarray, scores: np.ndarray
) -> _Line:
    """The tokens of a prompt, whose entries without a token have no scores."""
    counts = np.array([-1 if entry is None else len(entry) for entry in entries], np.int64)
    places = np.flatnonzero(counts >= 0)
    tokens = np.full(len(places), -1) if given is None else np.array(given, np.int64)[places]
    return _Line(places, tokens, counts[places], ids, scores)


def _pairs_of_prompt(entries: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The ids and log-probabilities of entries, one after the other.

    Raises:
        Exception: One of ``_NOT_PAIRS``.
    """
    ids = [int(number) for entry in entries for number in entry]
    scores = [value["logprob"] for entry in entries for value in entry.values()]
    return np.array(ids, np.int64), _floats(scores)


def _is_pairs(entry: Any) -> bool:
    try:
        _pairs_of_prompt([entry])
    except _NOT_PAIRS:
        return False
    return True


def _floats(values: list[Any]) -> Float[np.ndarray, " values"]:
    """An array of numbers, among which nothing else is taken for one."""
    if not set(map(type, values)) <= {float, int}:
        raise TypeError
    return np.array(values, np.float64)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {int}


def _answer(choice: Mapping[str, Any], id_of: IdOf, where: str) -> _Line:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        raise UsageError(
            f"{where} has neither 'prompt_logprobs' nor 'logprobs' with 'content': ask the server "
            "for log-probabilities."
        )
    counts: list[int] = []
    ids: list[int] = []
    scores: list[np.ndarray] = []
    for place, entry in enumerate(content):
        what = f"{where}: logprobs.content[{place}]"
        try:
            pairs = [entry, *entry["top_logprobs"]]
            scores.append(_floats([pair["logprob"] for pair in pairs]))
            found = [id_of(pair) for pair in pairs]
        except _NOT_PAIRS:
            raise UsageError(
                f"{what} must have token, logprob and top_logprobs, got {shown(entry)}."
            ) from None
        unknown = [pair for pair, number in zip(pairs, found, strict=True) if number is None]
        if unknown:
            raise UsageError(
                f"{what}: {shown(unknown[0].get('token'))} is not one token of the tokenizer: ask "
                "the server for token ids (return_tokens_as_token_ids), or use its tokenizer."
            )
        counts.append(len(pairs))
        ids += [number for number in found if number is not None]
    own = np.array(ids, np.int64)
    bounds = np.array([0, *itertools.accumulate(counts)], np.int64)
    return _Line(
        np.arange(len(content)),
        own[bounds[:-1]],
        np.array(counts, np.int64),
        own,
        np.concatenate([np.zeros(0), *scores]),
    )


def _joined(lines: Sequence[tuple[int, int, _Line]], of_answer: bool) -> ScoredTokens:
    numbers, examples, found = zip(*lines, strict=True)
    places, tokens, counts, flat_ids, flat_scores = map(np.concatenate, zip(*found, strict=True))
    inside = np.arange(counts.max(initial=0)) < counts[:, None]
    ids, scores = np.full(inside.shape, -1, np.int64), np.full(inside.shape, -np.inf)
    ids[inside], scores[inside] = flat_ids, flat_scores
    lengths = [len(line.tokens) for line in found]
    return ScoredTokens(
        np.repeat(numbers, lengths),
        np.repeat(np.array(examples, np.int64), lengths),
        places,
        of_answer,
        tokens,
        ids,
        scores,
    )
