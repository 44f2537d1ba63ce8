"""Sentences whose words have classes, from files with columns and from CoNLL files."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ..errors import UsageError, missing_file, reason_of
from .labels import (
    UNLABELLED,
    as_names,
    check_label,
    check_text,
    number_of,
    require_known,
    shortened,
    sorted_names,
    warn_of_similar,
)
from .read import value_of
from .rows import Source, read_rows

CONLL_SUFFIXES = (".conll", ".txt")
"""Files with a word in each line and blank lines between sentences."""


@dataclasses.dataclass(frozen=True)
class TaggedTexts:
    """Sentences as words, and the class of each word.

    Attributes:
        sentences: The words of each.
        tags: Class numbers of the words of each, int32: positions in ``label_names``, or
            ``UNLABELLED``. ``None`` if no word has a class.
        label_names: The classes in order.
    """

    sentences: list[list[str]]
    tags: list[Int[np.ndarray, " words"]] | None = None
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> "TaggedTexts":
        """Selects sentences by number, in this order."""
        return dataclasses.replace(
            self,
            sentences=[self.sentences[row] for row in rows],
            tags=None if self.tags is None else [self.tags[row] for row in rows],
        )

    def with_unlabelled(self, more: "TaggedTexts") -> "TaggedTexts":
        """Appends the sentences of ``more`` without their classes.

        Examples:
            >>> some = TaggedTexts([["a", "b"]], [np.array([1, 0], np.int32)])
            >>> [tags.tolist() for tags in some.with_unlabelled(TaggedTexts([["c"]])).tags]
            [[1, 0], [-100]]
        """
        tags = self.tags if self.tags is not None else _unlabelled(self.sentences)
        return dataclasses.replace(
            self,
            sentences=self.sentences + more.sentences,
            tags=[*tags, *_unlabelled(more.sentences)],
        )


def _unlabelled(sentences: list[list[str]]) -> list[Int[np.ndarray, " words"]]:
    return [np.full(len(words), UNLABELLED, np.int32) for words in sentences]


def read_tagged(
    path: Source,
    *,
    tokens: str | int = "tokens",
    tags: str | int | None = "tags",
    text: str = "text",
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
) -> TaggedTexts:
    r"""Reads sentences and the classes of their words.

    In a CoNLL file (``.conll``, ``.txt``) each line is a word, and blank lines separate sentences;
    columns are separated by tabs or spaces, and lines that begin with ``-DOCSTART-`` are skipped.
    Other files have a column with a list of words and one with a list of classes; see
    :func:`~jaxbrewer.text.rows.read_rows` for formats. Without classes a file may have texts
    instead, whose words are separated by spaces: a column, or the lines of a file ``.txt``.

    Args:
        path: The file.
        tokens: Column of the words; in CoNLL files its number from 0, by default the first.
        tags: Column of the classes, names or numbers; in CoNLL files its number, by default the
            last. ``None`` for sentences without classes.
        text: Column of the text, if there is no column of words.
        labels: The classes in order. By default those of the file, sorted. Classes that are numbers
            of these names stand for them.
        label_map: Names of the classes by the labels of the file.

    Raises:
        UnknownLabelError: A class is not one of ``labels``.
        UsageError: The file cannot be read or is empty, a sentence has no words, or not as many
            classes as words.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "names.conll")
        ...     _ = path.write_text("Ada B-PER\nsleeps O\n\nRome B-LOC\n")
        ...     found = read_tagged(path)
        >>> found.sentences, [tags.tolist() for tags in found.tags], found.label_names
        ([['Ada', 'sleeps'], ['Rome']], [[1, 2], [0]], ('B-LOC', 'B-PER', 'O'))
    """
    is_conll = isinstance(path, (str, Path)) and Path(path).suffix.lower() in CONLL_SUFFIXES
    if is_conll:
        read = _conll(Path(str(path)), tokens, tags)
    else:
        read = _columns(path, str(tokens), None if tags is None else str(tags), text)
    sentences: list[list[str]] = []
    found: list[str] = []
    places: list[str] = []
    for place, words, names in read:
        if not words:
            raise UsageError(f"{place}: the sentence has no words.")
        sentences.append(words)
        found += names
        places += [place] * len(names)
    if not sentences:
        raise UsageError(f"{path} is empty: it has no sentences.")
    if tags is None:
        return TaggedTexts(sentences)
    known = tuple(labels or ())
    found = _named(as_names(found, places, label_map=label_map, known=known), known, path)
    names_in_order = known or sorted_names(found)
    number = number_of(names_in_order)
    require_known(found, places, names_in_order)
    warn_of_similar(names_in_order, path)
    numbers = np.array([number[name] for name in found], np.int32)
    ends = np.cumsum([len(words) for words in sentences])
    return TaggedTexts(sentences, np.split(numbers, ends[:-1]), names_in_order)


def _named(found: list[str], known: tuple[str, ...], path: Source) -> list[str]:
    """The names of classes that are given by number."""
    different = set(found)
    if not all(re.fullmatch("[0-9]{1,9}", name) for name in different) or different <= set(known):
        return found
    if not known:
        raise UsageError(
            f"{path}: the tags are numbers: list the names of the classes in data.labels, or give "
            "data.label_map."
        )
    names = {name: known[int(name)] for name in different if int(name) < len(known)}
    return [names.get(name, name) for name in found]


Read = Iterator[tuple[str, list[str], list[str]]]
"""The place, the words and the classes of each sentence."""


def _columns(path: Source, tokens: str, tags: str | None, text: str) -> Read:
    for line, row in read_rows(path):
        place = f"{path}:{line}"
        if tags is None and tokens not in row and text in row:
            yield place, check_text(row[text], f"{place}: the text {text!r}").split(), []
            continue
        words = _list(value_of(row, tokens, "tokens", place), f"{place}: the tokens {tokens!r}")
        words = [check_text(word, f"{place}: a word of {tokens!r}") for word in words]
        names: list[str] = []
        if tags is not None:
            values = _list(value_of(row, tags, "tags", place), f"{place}: the tags {tags!r}")
            names = [check_label(name, f"{place}: a tag of {tags!r}") for name in values]
            if len(names) != len(words):
                raise UsageError(f"{place}: {len(words)} words have {len(names)} tags.")
        yield place, words, names


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where} must be a list, got {shortened(value)}.")
    return list(value)


def _conll(path: Path, tokens: str | int, tags: str | int | None) -> Read:
    word_at = tokens if isinstance(tokens, int) else 0
    tag_at = tags if isinstance(tags, int) else -1
    is_text = tags is None and path.suffix.lower() == ".txt"
    place, words, names = str(path), list[str](), list[str]()
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split("\t") if "\t" in line and not is_text else line.split()
        if is_text and fields:
            yield f"{path}:{number}", fields, []
        elif is_text or (fields and fields[0] == "-DOCSTART-"):
            continue
        elif fields and any(field.strip() for field in fields):
            place = place if words else f"{path}:{number}"
            here = f"{path}:{number}"
            words.append(_field(fields, word_at, here, "word"))
            if tags is not None:
                if len(fields) < 2:
                    raise UsageError(f"{here}: one column, but a word and its tag are needed.")
                names.append(_field(fields, tag_at, here, "tag"))
        elif words:
            yield place, words, names
            words, names = [], []
    if words:
        yield place, words, names


def _field(fields: list[str], number: int, place: str, what: str) -> str:
    if not -len(fields) <= number < len(fields):
        raise UsageError(f"{place}: no column {number} for the {what}, only {len(fields)} columns.")
    return check_text(fields[number].strip(), f"{place}: the {what}")


def _lines(path: Path) -> Iterator[str]:
    if not os.path.isfile(path):
        raise missing_file(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line.rstrip("\r\n") for line in file)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
