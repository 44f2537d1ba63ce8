"""Texts and their labels, from files with named columns; errors name the file and the line."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from ..errors import UsageError, suggest
from .labels import (
    UNLABELLED,
    as_names,
    check_label,
    check_text,
    number_of,
    require_known,
    sorted_names,
    warn_of_similar,
)
from .rows import Source, read_rows


@dataclasses.dataclass(frozen=True)
class Examples:
    """Texts, alone or in pairs, and their labels.

    Attributes:
        texts: One text per example.
        pairs: The second text of each example, or ``None`` for single texts.
        labels: Class numbers, int32 ``[examples]``: positions in ``label_names``. Other tasks have
            other labels, ``[examples, ...]``. Of an example without a label all numbers are
            ``UNLABELLED``, or NaN if they are floats. ``None`` if no example has a label.
        label_names: The classes in order.
    """

    texts: list[str]
    pairs: list[str] | None = None
    labels: Shaped[np.ndarray, "examples ..."] | None = None
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
        labels = self.labels
        if labels is None:
            labels = np.full(len(self), UNLABELLED, np.int32)
        is_float = np.issubdtype(labels.dtype, np.floating)
        none = np.full((len(more), *labels.shape[1:]), np.nan if is_float else UNLABELLED)
        return dataclasses.replace(
            self,
            texts=self.texts + more.texts,
            pairs=None if self.pairs is None or more.pairs is None else self.pairs + more.pairs,
            labels=np.concatenate([labels, none.astype(labels.dtype)]),
        )


def read_examples(
    path: Source,
    *,
    text: str = "text",
    text_pair: str | None = None,
    label: str | None = "label",
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
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
        label_map: Names of the classes by the labels of the file; see
            :func:`~jaxbrewer.text.labels.as_names`.

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
    found, places = read_columns(
        path, {field: column for field, column in columns.items() if column is not None}
    )
    numbers, names = None, tuple(map(str, labels or ()))
    if label is not None:
        own = as_names(found["label"], places, label_map=label_map, known=names)
        names = names or sorted_names(own)
        number = number_of(names)
        require_known(own, places, names)
        numbers = np.array([number[name] for name in own], np.int32)
        warn_of_similar(names, path)
    return Examples(found["text"], found.get("text_pair"), numbers, names)


Check = Callable[[Any, str], Any]
"""Checks a value of a file; the second argument is its place, for messages."""


def read_columns(
    path: Source, columns: Mapping[str, str], checks: Mapping[str, Check] | None = None
) -> tuple[dict[str, list[Any]], list[str]]:
    """Reads some columns of a file; see :func:`read_rows` for formats.

    Args:
        path: The file.
        columns: The columns' names by field.
        checks: A function per field that checks its values; by default a label is a class, all
            others are texts.

    Returns:
        The values of each field, of at least one row, and the file and line of each row.

    Raises:
        UsageError: The file cannot be read or is empty, a column is unknown, or a check fails.
    """
    checks = {"label": check_label, **(checks or {})}
    found: dict[str, list[Any]] = {field: [] for field in columns}
    places: list[str] = []
    for line, row in read_rows(path):
        place = f"{path}:{line}"
        for field, column in columns.items():
            value = value_of(row, column, field, place)
            check = checks.get(field, check_text)
            found[field].append(check(value, f"{place}: the {field} {column!r}"))
        places.append(place)
    if not places:
        raise UsageError(f"{path} is empty: it has no examples.")
    return found, places


def value_of(row: Mapping[str, Any], column: str, field: str, place: str) -> Any:
    """The value of a row in a column.

    Raises:
        UsageError: There is no such column.
    """
    if column not in row:
        hint = ""
        if len(row) == 1 and (found := [mark for mark in ";|\t," if mark in next(iter(row))]):
            hint = f" The file is separated by {found[0]!r}: CSV needs ',', TSV needs tabs."
        raise UsageError(f"{place}: no column {column!r} for {field}: {suggest(column, row)}{hint}")
    return row[column]
