"""Texts and their labels, from files with named columns; errors name the file and the line."""

import dataclasses
import math
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..errors import UsageError, suggest
from .rows import Source, read_rows

UNLABELLED = -100
"""The class number of a text without a label."""


class UnknownLabelError(UsageError):
    """A label of a file is not one of the given classes."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Texts, alone or in pairs, and their labels.

    Attributes:
        texts: One text per example.
        pairs: The second text of each example, or ``None`` for single texts.
        labels: Class numbers, int32 ``[examples]``: positions in ``label_names``, or
            ``UNLABELLED``. ``None`` if no example has a label.
        label_names: The classes in order.
    """

    texts: list[str]
    pairs: list[str] | None = None
    labels: Int[np.ndarray, " examples"] | None = None
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> "Examples":
        """Selects examples by number, in this order.

        Examples:
            >>> Examples(["a", "b", "c"]).take([2, 0]).texts
            ['c', 'a']
        """
        return dataclasses.replace(
            self,
            texts=[self.texts[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=None if self.labels is None else self.labels[np.asarray(rows, int)],
        )

    def with_unlabelled(self, more: "Examples") -> "Examples":
        """Appends the texts of ``more`` without their labels.

        Raises:
            UsageError: One has pairs of texts and the other does not.

        Examples:
            >>> some = Examples(["a", "b"], labels=np.array([1, 0], np.int32))
            >>> some.with_unlabelled(Examples(["c"])).labels
            array([   1,    0, -100], dtype=int32)
        """
        if (self.pairs is None) != (more.pairs is None):
            raise UsageError("Either all texts come in pairs (text_pair) or none do.")
        labels = [
            np.full(len(self), UNLABELLED) if self.labels is None else self.labels,
            np.full(len(more), UNLABELLED),
        ]
        return dataclasses.replace(
            self,
            texts=self.texts + more.texts,
            pairs=None if self.pairs is None or more.pairs is None else self.pairs + more.pairs,
            labels=np.concatenate(labels).astype(np.int32),
        )


def read_examples(
    path: Source,
    *,
    text: str = "text",
    text_pair: str | None = None,
    label: str | None = "label",
    labels: Sequence[str] | None = None,
) -> Examples:
    r"""Reads texts and labels from a file with named columns; see :func:`read_rows` for formats.

    Args:
        path: The file; its suffix is its format. Or a directory written by ``save_to_disk``, or
            rows in memory.
        text: Column of the text.
        text_pair: Column of a second text, if examples are pairs.
        label: Column of the label, a string or an integer; ``None`` for texts without labels.
        labels: The classes in order. By default those of the file, sorted (numerically if all are
            integers).

    Returns:
        At least one example.

    Raises:
        UnknownLabelError: A label is not one of ``labels``.
        UsageError: The file is missing, empty, damaged or of another kind; a column is unknown or
            a line has too many or too few; a text is not a string, is empty or NaN; a label is
            missing, NaN, or not among ``labels``.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "animals.csv")
        ...     _ = path.write_text("text,label\nit barks,dog\nit purrs,cat\n")
        ...     examples = read_examples(path)
        >>> examples.texts, examples.labels.tolist(), examples.label_names
        (['it barks', 'it purrs'], [1, 0], ('cat', 'dog'))
    """
    columns = {"text": text, "text_pair": text_pair, "label": label}
    wanted = {field: column for field, column in columns.items() if column is not None}
    found: dict[str, list[str]] = {field: [] for field in wanted}
    lines: list[int] = []
    for line, row in read_rows(path):
        for field, column in wanted.items():
            if column not in row:
                raise UsageError(
                    f"{path}:{line}: no column {column!r} for {field}: {suggest(column, row)}"
                )
            check = _label if field == "label" else check_text
            found[field].append(check(row[column], f"{path}:{line}: the {field} {column!r}"))
        lines.append(line)
    if not lines:
        raise UsageError(f"{path} is empty: it has no examples.")
    numbers, names = None, tuple(map(str, labels or ()))
    if label is not None:
        names = names or _sorted_names(set(found["label"]))
        numbers = _numbers(found["label"], names, path, lines)
        _warn_of_similar(names, path)
    return Examples(found["text"], found.get("text_pair"), numbers, names)


def _numbers(
    found: list[str], names: tuple[str, ...], path: Source, lines: list[int]
) -> Int[np.ndarray, " examples"]:
    number = {name: position for position, name in enumerate(names)}
    if len(number) < len(names):
        raise UsageError(f"labels has a name twice: {list(names)}.")
    for name, line in zip(found, lines, strict=True):
        if name not in number:
            raise UnknownLabelError(
                f"{path}:{line}: the label {_shown(name)} is not one of the classes: "
                f"{suggest(name, names)}"
            )
    return np.array([number[name] for name in found], np.int32)


def _warn_of_similar(names: Sequence[str], path: Source) -> None:
    """Warns of classes that differ only by case, spaces or the form of their characters."""
    alike: dict[str, str] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if key in alike:
            warnings.warn(
                f"{path}: the labels {alike[key]!r} and {name!r} are two classes, although they "
                "differ only by case or spaces.",
                stacklevel=3,
            )
        alike.setdefault(key, name)


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    numeric = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names)
    return tuple(sorted(names, key=int if numeric else None))


def check_text(value: Any, where: str) -> str:
    """A text of a file, checked.

    Args:
        value: What the file has.
        where: File, line and column, for messages.

    Raises:
        UsageError: It is missing, empty, or no text.
    """
    if isinstance(value, float) and math.isnan(value):
        raise UsageError(f"{where} is NaN, a missing value: fill it or remove the line.")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UsageError(f"{where} must be a string, got {kind}: {_shown(value)}.")
    if not value.strip():
        raise UsageError(f"{where} is empty.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(
            f"{where} contains half a surrogate pair, which is not text: {_shown(value)}."
        )
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _label(value: Any, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 2**63:
            raise UsageError(f"{where} is an integer with more than 64 bits.")
        return str(value)
    if value is None:
        raise UsageError(f"{where} is missing.")
    if not isinstance(value, (str, float)):
        raise UsageError(f"{where} must be a string or an integer, got {_shown(value)}.")
    return check_text(value, where)
