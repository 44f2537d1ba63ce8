"""Loads tokenizers of the library ``tokenizers`` from Hugging Face directories."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from ..errors import UsageError, missing_extra
from ..json_files import read_json, replace_file, write_json

_STRATEGIES = {"longest_first": "LongestFirst", "only_second": "OnlySecond"}
"""The names of strategies in ``tokenizer_config.json`` and in ``tokenizer.json``."""


@dataclasses.dataclass(frozen=True)
class Truncation:
    """How the texts of a model are cut, which every program that reads its tokenizer must know.

    Attributes:
        max_length: Maximum number of tokens of a row, special ones included.
        strategy: Which text of a pair is cut; ``None`` for language models, whose longer texts
            become several windows.
        stride: Tokens that successive windows of the second text share.
    """

    max_length: int
    strategy: Literal["longest_first", "only_second"] | None = "longest_first"
    stride: int = 0


def write_truncation(directory: Path, truncation: Truncation) -> None:
    """Writes how texts are cut into ``tokenizer.json`` and ``tokenizer_config.json``.

    Padding to a fixed length, which may exceed the maximum, becomes padding to the longest text of
    a batch.

    Args:
        directory: The directory, with the files of a tokenizer.
        truncation: How jaxbrewer cuts the texts.

    Raises:
        UsageError: A file is damaged or cannot be written.
    """
    strategy, length = truncation.strategy, truncation.max_length
    settings = {**tokenizer_settings(directory), "model_max_length": length}
    names = ("max_length", "stride", "truncation_side", "truncation_strategy")
    if strategy is None:
        for name in names:
            settings.pop(name, None)
    else:
        settings |= dict(zip(names, (length, truncation.stride, "right", strategy), strict=True))
    path = directory / "tokenizer.json"
    if os.path.isfile(path):
        content = read_json(path, dict[str, Any])
        content["truncation"] = (
            None
            if strategy is None
            else {
                "direction": "Right",
                "max_length": length,
                "strategy": _STRATEGIES[strategy],
                "stride": truncation.stride,
            }
        )
        if content.get("padding"):
            content["padding"] = {**content["padding"], "strategy": "BatchLongest"}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        replace_file(path, (text + "\n").encode())
    write_json(directory / "tokenizer_config.json", settings)


def load_tokenizer(directory: Path) -> Any:
    """The library's tokenizer of a directory: ``tokenizer.json``, or else ``vocab.txt``."""
    try:
        import tokenizers
    except ImportError:
        raise missing_extra("text", "tokenizers") from None
    if os.path.isfile(directory / "tokenizer.json"):
        path = directory / "tokenizer.json"
    elif os.path.isfile(directory / "vocab.txt"):
        path = directory / "vocab.txt"
    else:
        raise UsageError(f"{directory} has no tokenizer: neither tokenizer.json nor vocab.txt.")
    with library_errors(f"{path} cannot be read as a tokenizer"):
        if path.suffix == ".json":
            return tokenizers.Tokenizer.from_file(str(path))
        settings = tokenizer_settings(directory)
        return tokenizers.BertWordPieceTokenizer(
            str(path),
            lowercase=settings.get("do_lower_case", True),
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
        )


def first_pieces(word_ids: Sequence[int | None]) -> Int[np.ndarray, " tokens"]:
    """The number of the word that begins at each token, or -1.

    Examples:
        >>> first_pieces([None, 0, 0, 1, None]).tolist()
        [-1, 0, -1, 1, -1]
    """
    words = np.array([-1 if word is None else word for word in word_ids], np.int64)
    begins = np.diff(words, prepend=-1) != 0
    return np.where(begins, words, -1)


def with_spaces_before_words(tokenizer: Any) -> Any:
    """A copy that reads each of several given words as after a space.

    Byte-level and SentencePiece tokenizers have other tokens for a word inside another.
    """
    content = json.loads(tokenizer.to_str())

    def change(part: Any) -> None:
        if not isinstance(part, dict):
            return
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = True
        elif part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never":
            part["prepend_scheme"] = "always"
        for inner in part.get("pretokenizers") or ():
            change(inner)

    change(content["pre_tokenizer"])
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(content))


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turns whatever the library ``tokenizers`` raises, panics included, into a usage error."""
    try:
        yield
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # the library raises nothing narrower
        raise UsageError(f"{what}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a Rust library, not an Exception
            raise
        raise UsageError(f"{what}: {error}") from None


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest token id, which may exceed the number of tokens."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def tokenizer_settings(directory: Path) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``."""
    path = directory / "tokenizer_config.json"
    return read_json(path, dict[str, Any]) if os.path.isfile(path) else {}
