"""Tokenizes texts with the tokenizer of a Hugging Face directory."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ..errors import UsageError, missing_extra
from ..json_files import read_json, write_json
from .labels import UNLABELLED

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""The files of a tokenizer in a Hugging Face directory; none of them is required."""

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {
    **{chr(byte): byte for byte in _PRINTED},
    **{chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in _PRINTED)},
}
"""The bytes that the characters of byte-level tokens stand for."""

_TEXTS_PER_CALL = 10_000
"""Texts tokenized per call, which bounds the memory of the intermediate objects."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Tokenized examples, concatenated without padding.

    Attributes:
        input_ids: Token ids of all examples, int32 ``[tokens]``.
        token_type_ids: 0 for the first text of an example and 1 for the second, int32
            ``[tokens]``.
        offsets: Start of each example, and the total, int64 ``[examples + 1]``.
        pad_id: Id of the padding token, which is masked.
        token_columns: More integers of each token, ``[tokens]``, by their name in a batch, where
            padding has ``UNLABELLED``.
        columns: More values of each example, ``[examples, ...]``, by their name in a batch.
        token_facts: Facts about each token, ``[tokens, ...]``, that stay out of batches, such as
            its place in the text.
        facts: Facts about each example, ``[examples, ...]``, that stay out of batches, such as
            whether it was cut (``is_cut``).
    """

    input_ids: Int[np.ndarray, " tokens"]
    token_type_ids: Int[np.ndarray, " tokens"]
    offsets: Int[np.ndarray, " bounds"]
    pad_id: int = 0
    token_columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    token_facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Tokens of each example."""
        return np.diff(self.offsets)

    def without(self, *names: str) -> "Encoded":
        """The same examples without some of their columns."""

        def others(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: values for name, values in columns.items() if name not in names}

        return dataclasses.replace(
            self, token_columns=others(self.token_columns), columns=others(self.columns)
        )

    def batch(self, rows: Sequence[int] | Int[np.ndarray, " rows"], width: int) -> dict[str, Any]:
        """Makes a batch of examples, padded to ``width`` tokens.

        Args:
            rows: Numbers of the examples.
            width: Tokens per row, at least those of the longest example.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids``, int32 ``[rows, width]``, the
            ``token_columns``, of that shape too, and the ``columns``, ``[rows, ...]``.

        Examples:
            >>> tokens = np.array([5, 6, 7], np.int32)
            >>> encoded = Encoded(tokens, np.zeros(3, np.int32), np.array([0, 2, 3]))
            >>> encoded.batch([1, 0], width=3)["input_ids"].tolist()
            [[7, 0, 0], [5, 6, 0]]
        """
        starts, lengths = self.offsets[rows], self.lengths[rows]
        positions = np.arange(width)
        mask = positions < lengths[:, None]
        source = (starts[:, None] + positions)[mask]
        if len(source) < lengths.sum():
            raise UsageError(f"Examples of {lengths.max()} tokens do not fit a width of {width}.")
        batch = {"attention_mask": mask.astype(np.int32)}
        for name, fill, values in (
            ("input_ids", self.pad_id, self.input_ids),
            ("token_type_ids", 0, self.token_type_ids),
            *((name, UNLABELLED, values) for name, values in self.token_columns.items()),
        ):
            batch[name] = np.full(mask.shape, fill, np.int32)
            batch[name][mask] = values[source]
        return batch | {name: values[rows] for name, values in self.columns.items()}


class Spans(NamedTuple):
    """The tokens of one text, and their places in it.

    Attributes:
        ids: Token ids, int32 ``[tokens]``.
        places: First character, and the one after the last, int64 ``[tokens, 2]``.
    """

    ids: Int[np.ndarray, " tokens"]
    places: Int[np.ndarray, "tokens 2"]


class Tokenizer:
    """The tokenizer of a Hugging Face directory: ``tokenizer.json``, or else ``vocab.txt``.

    Padding and truncation settings of ``tokenizer.json`` are ignored.

    Args:
        directory: The directory. ``vocab.txt`` alone gives BERT's tokenizer, with the settings of
            ``tokenizer_config.json``.

    Attributes:
        vocab_size: All token ids are below it.
        pad_id: Id of the padding token.

    Raises:
        UsageError: The directory or the files are missing or damaged, or the library
            ``tokenizers`` is not installed.
    """

    def __init__(self, directory: str | Path):
        self._directory = Path(directory)
        self._tokenizer = _load(self._directory)
        self._tokenizer.no_padding()
        self.vocab_size: int = _vocabulary_size(self._tokenizer)
        token = _settings(self._directory).get("pad_token", "[PAD]")
        token = token.get("content") if isinstance(token, dict) else token
        with _library_errors(f"The tokenizer of {self._directory} has no padding token {token!r}"):
            self.pad_id: int = self._tokenizer.token_to_id(str(token)) or 0

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int
    ) -> Encoded:
        """Tokenizes texts and adds the special tokens.

        Args:
            texts: The texts.
            pairs: A second text for each.
            max_length: Maximum number of tokens, special ones included. Longer examples are cut; of
                a pair, the longer text first.

        Raises:
            UsageError: ``max_length`` leaves no room for text, or ``pairs`` has another length.
        """
        with _library_errors(f"The tokenizer of {self._directory} cannot read the texts"):
            return self._encode(texts, pairs, max_length)

    def _encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        special = self._tokenizer.num_special_tokens_to_add(is_pair=pairs is not None)
        if max_length <= special:
            raise UsageError(
                f"max_length must be above {special}, the number of special tokens, "
                f"got {max_length}."
            )
        if pairs is not None and len(pairs) != len(texts):
            raise UsageError(f"{len(texts)} texts with {len(pairs)} second texts.")
        self._tokenizer.enable_truncation(max_length)
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        ids: list[Any] = [np.zeros(0, np.int32)]
        types: list[Any] = [np.zeros(0, np.int32)]
        is_cut: list[bool] = []
        for start in range(0, len(inputs), _TEXTS_PER_CALL):
            for encoding in self._tokenizer.encode_batch(inputs[start : start + _TEXTS_PER_CALL]):
                ids.append(np.array(encoding.ids, np.int32))
                types.append(np.array(encoding.type_ids, np.int32))
                is_cut.append(bool(encoding.overflowing))
        offsets = np.cumsum([len(row) for row in ids])
        if not all(map(len, ids[1:])):
            empty = next(number for number, row in enumerate(ids[1:]) if not len(row))
            raise UsageError(
                f"The tokenizer of {self._directory} makes no tokens of {inputs[empty]!r:.60}."
            )
        return Encoded(
            np.concatenate(ids),
            np.concatenate(types),
            offsets,
            self.pad_id,
            facts={"is_cut": np.array(is_cut, bool)},
        )

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """Tokenizes texts as they are: without special tokens, uncut; a text may be empty."""
        with _library_errors(f"The tokenizer of {self._directory} cannot read the texts"):
            self._tokenizer.no_truncation()
            return [
                Spans(
                    np.array(encoding.ids, np.int32),
                    np.array(encoding.offsets, np.int64).reshape(-1, 2),
                )
                for start in range(0, len(texts), _TEXTS_PER_CALL)
                for encoding in self._tokenizer.encode_batch(
                    texts[start : start + _TEXTS_PER_CALL], add_special_tokens=False
                )
            ]

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that go before and after a text."""
        with _library_errors(f"The tokenizer of {self._directory} cannot read a text"):
            plain = self._tokenizer.encode("a", add_special_tokens=False).ids
            whole = self._tokenizer.encode("a").ids
        count = len(whole) - len(plain) + 1
        start = next((i for i in range(count) if whole[i : i + len(plain)] == plain), 0)
        return whole[:start], whole[start + len(plain) :]

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text, ``eos_token``; ``None`` if there is none."""
        token = _settings(self._directory).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        with _library_errors(f"The tokenizer of {self._directory} has no token {token!r}"):
            return None if token is None else self._tokenizer.token_to_id(str(token))

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """The text of tokens, without special ones."""
        with _library_errors(f"The tokenizer of {self._directory} cannot decode the tokens"):
            return self._tokenizer.decode([int(token) for token in ids])

    def ids_by_bytes(self) -> dict[bytes, int]:
        """Token ids by the bytes of their text, without texts that several tokens have."""
        vocabulary = self._tokenizer.get_vocab()
        is_bytes = type(self._tokenizer.decoder).__name__ == "ByteLevel"
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        found: dict[bytes, int] = {}
        several = set()
        for token, number in vocabulary.items():
            if token in added:
                text = token.encode()
            elif is_bytes:
                text = bytes(_BYTE_OF.get(char, 0) for char in token)
            elif _BYTE_TOKEN.fullmatch(token):
                text = bytes([int(token[3:5], 16)])
            else:
                text = token.replace("\u2581", " ").encode()
            if text in found:
                several.add(text)
            found[text] = number
        return {text: number for text, number in found.items() if text not in several}

    @property
    def directory(self) -> Path:
        """The directory that it was read from."""
        return self._directory

    def save(self, directory: str | Path, *, max_length: int | None = None) -> None:
        """Copies the tokenizer's files into ``directory``, beside a saved model.

        It replaces or removes the files of another tokenizer.

        Args:
            directory: The directory.
            max_length: The number of tokens that the model was trained on, kept as
                ``model_max_length`` of ``tokenizer_config.json``.
        """
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if os.path.isfile(self._directory / name):
                (target / name).write_bytes((self._directory / name).read_bytes())
            else:
                (target / name).unlink(missing_ok=True)
        if max_length is not None:
            settings = {**_settings(self._directory), "model_max_length": max_length}
            write_json(target / "tokenizer_config.json", settings)


def saved_max_length(directory: str | Path) -> int | None:
    """The ``model_max_length`` of a model directory; ``None`` if it has none.

    ``transformers`` writes 10^30 for a tokenizer without a limit.

    Raises:
        UsageError: ``tokenizer_config.json`` is damaged.
    """
    length = _settings(Path(directory)).get("model_max_length")
    known = isinstance(length, int) and not isinstance(length, bool) and 4 <= length < 2**31
    return length if known else None


def _load(directory: Path) -> Any:
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
    with _library_errors(f"{path} cannot be read as a tokenizer"):
        if path.suffix == ".json":
            return tokenizers.Tokenizer.from_file(str(path))
        settings = _settings(directory)
        return tokenizers.BertWordPieceTokenizer(
            str(path),
            lowercase=settings.get("do_lower_case", True),
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
        )


@contextlib.contextmanager
def _library_errors(what: str) -> Iterator[None]:
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


def _vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest token id, which may exceed the number of tokens."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    return read_json(path, dict[str, Any]) if os.path.isfile(path) else {}
