"""Tokenizes texts with the tokenizer of a Hugging Face directory."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ..errors import UsageError
from .labels import UNLABELLED
from .tokenizer_files import (
    Truncation,
    first_pieces,
    library_errors,
    load_tokenizer,
    tokenizer_settings,
    vocabulary_size,
    with_spaces_before_words,
    write_truncation,
)

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
        group: Number of successive rows that stay together in batches, such as the two texts of a
            pair.
        max_length: Maximum number of tokens that examples were cut to, which no batch exceeds.
    """

    input_ids: Int[np.ndarray, " tokens"]
    token_type_ids: Int[np.ndarray, " tokens"]
    offsets: Int[np.ndarray, " bounds"]
    pad_id: int = 0
    token_columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    token_facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    group: int = 1
    max_length: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Tokens of each example."""
        return np.diff(self.offsets)

    def digest(self) -> str:
        """A digest of the tokens and columns, by which a resumed training knows its texts."""
        arrays = {
            "input_ids": self.input_ids,
            "token_type_ids": self.token_type_ids,
            "offsets": self.offsets,
            **self.token_columns,
            **self.columns,
        }
        digest = hashlib.sha256()
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

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
        self._tokenizer = load_tokenizer(self._directory)
        self._tokenizer.no_padding()
        self.vocab_size: int = vocabulary_size(self._tokenizer)
        token = tokenizer_settings(self._directory).get("pad_token", "[PAD]")
        token = token.get("content") if isinstance(token, dict) else token
        with library_errors(f"The tokenizer of {self._directory} has no padding token {token!r}"):
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
        with library_errors(f"The tokenizer of {self._directory} cannot read the texts"):
            return self._encode(texts, pairs, max_length)

    def _encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        self._require_room(max_length, is_pair=pairs is not None)
        if pairs is not None and len(pairs) != len(texts):
            raise UsageError(f"{len(texts)} texts with {len(pairs)} second texts.")
        self._tokenizer.enable_truncation(max_length)
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = (
            encoding
            for start in range(0, len(inputs), _TEXTS_PER_CALL)
            for encoding in self._tokenizer.encode_batch(inputs[start : start + _TEXTS_PER_CALL])
        )
        return self._joined(encodings, max_length)

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """Tokenizes texts as they are: without special tokens, uncut; a text may be empty."""
        with library_errors(f"The tokenizer of {self._directory} cannot read the texts"):
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

    def encode_words(self, sentences: Sequence[Sequence[str]], *, max_length: int) -> Encoded:
        """Tokenizes sentences word by word and adds the special tokens.

        Args:
            sentences: The words of each.
            max_length: Maximum number of tokens, special ones included; longer sentences are cut.

        Returns:
            The tokens. The fact ``word`` of each is the number of the word in its sentence whose
            first piece it is, or -1.

        Raises:
            UsageError: ``max_length`` leaves no room for words.
        """
        with library_errors(f"The tokenizer of {self._directory} cannot read the words"):
            tokenizer = with_spaces_before_words(self._tokenizer)
            self._require_room(max_length, is_pair=False)
            tokenizer.enable_truncation(max_length)
            encodings = [
                encoding
                for start in range(0, len(sentences), _TEXTS_PER_CALL)
                for encoding in tokenizer.encode_batch(
                    [list(words) for words in sentences[start : start + _TEXTS_PER_CALL]],
                    is_pretokenized=True,
                )
            ]
        words = [first_pieces(encoding.word_ids) for encoding in encodings]
        encoded = self._joined(encodings, max_length)
        return dataclasses.replace(encoded, token_facts={"word": np.concatenate(words)})

    def encode_windows(
        self, queries: Sequence[str], texts: Sequence[str], *, max_length: int, stride: int
    ) -> Encoded:
        """Tokenizes pairs whose second text is cut into windows that overlap.

        Args:
            queries: The first texts, which are repeated in each window; of more than half of the
                tokens, the first ones.
            texts: The second texts.
            max_length: Maximum number of tokens of a row, special ones included.
            stride: Tokens that successive windows share.

        Returns:
            One row for each window, with the fact ``example``, the number of its pair. The fact
            ``place`` of each token of the second text is its first character and the one after its
            last there; it is -1 of other tokens.

        Raises:
            UsageError: ``max_length`` leaves no room for windows.
        """
        with library_errors(f"The tokenizer of {self._directory} cannot read the texts"):
            room = self._require_room(max_length, is_pair=True)
            self._tokenizer.no_truncation()
            longest = room // 2
            if stride >= room - longest:
                raise UsageError(
                    f"stride must be below {room - longest}, half of the {room} tokens that "
                    f"max_length {max_length} leaves, got {stride}."
                )
            shortened = [
                query if len(span.ids) <= longest else query[: span.places[longest][0]]
                for query, span in zip(queries, self.spans(queries), strict=True)
            ]
            self._tokenizer.enable_truncation(max_length, stride=stride, strategy="only_second")
            rows, examples, places = [], [], []
            pairs = list(zip(shortened, texts, strict=True))
            for number, whole in enumerate(self._tokenizer.encode_batch(pairs)):
                for encoding in (whole, *whole.overflowing):
                    rows.append(encoding)
                    examples.append(number)
                    in_text = np.array(encoding.sequence_ids) == 1
                    place = np.array(encoding.offsets, np.int64).reshape(-1, 2)
                    places.append(np.where(in_text[:, None], place, -1))
        return dataclasses.replace(
            self._joined(rows, max_length),
            facts={"example": np.array(examples, np.int64)},
            token_facts={"place": np.concatenate(places)},
        )

    def _require_room(self, max_length: int, *, is_pair: bool) -> int:
        """The number of tokens beside the special ones."""
        special: int = self._tokenizer.num_special_tokens_to_add(is_pair=is_pair)
        if max_length <= special:
            raise UsageError(
                f"max_length must be above {special}, the number of special tokens, "
                f"got {max_length}."
            )
        return max_length - special

    def _joined(self, encodings: Iterable[Any], max_length: int) -> Encoded:
        """The tokens of several texts, of which each must have at least one."""
        ids: list[Any] = [np.zeros(0, np.int32)]
        types: list[Any] = [np.zeros(0, np.int32)]
        is_cut: list[bool] = []
        for number, encoding in enumerate(encodings, start=1):
            if not encoding.ids:
                raise UsageError(
                    f"The tokenizer of {self._directory} makes no tokens of text {number}."
                )
            ids.append(np.array(encoding.ids, np.int32))
            types.append(np.array(encoding.type_ids, np.int32))
            is_cut.append(bool(encoding.overflowing))
        return Encoded(
            np.concatenate(ids),
            np.concatenate(types),
            np.cumsum([len(row) for row in ids]),
            self.pad_id,
            facts={"is_cut": np.array(is_cut, bool)},
            max_length=max_length,
        )

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that go before and after a text."""
        with library_errors(f"The tokenizer of {self._directory} cannot read a text"):
            plain = self._tokenizer.encode("a", add_special_tokens=False).ids
            whole = self._tokenizer.encode("a").ids
        count = len(whole) - len(plain) + 1
        start = next((i for i in range(count) if whole[i : i + len(plain)] == plain), 0)
        return whole[:start], whole[start + len(plain) :]

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text, ``eos_token``; ``None`` if there is none."""
        return self._id_of(self._named("eos_token"))

    @property
    def mask_id(self) -> int | None:
        """Id of the token that hides another, ``mask_token``; ``None`` if there is none."""
        named = self._named("mask_token")
        found = [self._id_of(token) for token in ([named] if named else ["[MASK]", "<mask>"])]
        return next((number for number in found if number is not None), None)

    def _named(self, role: str) -> str | None:
        token = tokenizer_settings(self._directory).get(role)
        token = token.get("content") if isinstance(token, dict) else token
        return None if token is None else str(token)

    def _id_of(self, token: str | None) -> int | None:
        with library_errors(f"The tokenizer of {self._directory} has no token {token!r}"):
            return None if token is None else self._tokenizer.token_to_id(token)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """The text of tokens, without special ones."""
        with library_errors(f"The tokenizer of {self._directory} cannot decode the tokens"):
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

    def save(self, directory: str | Path, truncation: Truncation | None = None) -> None:
        """Copies the tokenizer's files into ``directory``, beside a saved model.

        It replaces or removes the files of another tokenizer.

        Args:
            directory: The directory.
            truncation: How the texts of the model are cut, from ``Task.truncation``. It replaces
                that of the files; without it they are copied as they are.
        """
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if os.path.isfile(self._directory / name):
                (target / name).write_bytes((self._directory / name).read_bytes())
            else:
                (target / name).unlink(missing_ok=True)
        if truncation is not None:
            write_truncation(target, truncation)


def saved_max_length(directory: str | Path) -> int | None:
    """The ``model_max_length`` of a model directory; ``None`` if it has none.

    ``transformers`` writes 10^30 for a tokenizer without a limit.

    Raises:
        UsageError: ``tokenizer_config.json`` is damaged.
    """
    length = tokenizer_settings(Path(directory)).get("model_max_length")
    known = isinstance(length, int) and not isinstance(length, bool) and 4 <= length < 2**31
    return length if known else None


def saved_stride(directory: str | Path) -> int | None:
    """The stride of a model directory whose texts are cut into windows; ``None`` if none is saved.

    Raises:
        UsageError: ``tokenizer_config.json`` is damaged.
    """
    settings = tokenizer_settings(Path(directory))
    stride = settings.get("stride")
    known = isinstance(stride, int) and not isinstance(stride, bool) and 0 <= stride < 2**31
    return stride if known and settings.get("truncation_strategy") == "only_second" else None
