"""Labels of files: which values may be one, and the names that they stand for."""

import math
import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, reason_of, shown, suggest
from ..json_files import read_json

UNLABELLED = -100
"""The class number of what has no label."""

_INTEGER, _WHOLE = re.compile(r"-?[0-9]{1,18}"), re.compile(r"(-?[0-9]{1,18})\.0+")


class UnknownLabelError(UsageError):
    """A label of a file is not one of the given classes."""


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
        raise UsageError(f"{where} must be a string, got {kind}: {shortened(value)}.")
    if not value.strip():
        raise UsageError(f"{where} is empty.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(
            f"{where} contains half a surrogate pair, which is not text: {shortened(value)}."
        )
    return value


def check_label(value: Any, where: str) -> str:
    """The name of a label: a string, or an integer, which may be written as a float.

    Raises:
        UsageError: It is missing, empty, or of another kind.

    Examples:
        >>> check_label("dog", "x.csv:2"), check_label(1, "x.csv:2"), check_label(1.0, "x.csv:2")
        ('dog', '1', '1')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 2**63:
            raise UsageError(f"{where} is an integer with more than 64 bits.")
        return str(value)
    if value is None:
        raise UsageError(f"{where} is missing.")
    if not isinstance(value, (str, float)):
        raise UsageError(f"{where} must be a string or an integer, got {shortened(value)}.")
    return check_text(value, where)


def shortened(value: Any) -> str:
    """The repr of a value of a file, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_names(
    found: Sequence[str],
    places: Sequence[str],
    *,
    label_map: Mapping[str, str] | None = None,
    known: Collection[str] = (),
) -> list[str]:
    """The names that the labels of a file stand for.

    Args:
        found: The labels.
        places: File and line of each, for messages.
        label_map: Names by label. A label that is one of these names stands for itself.
        known: The names of the classes, if they are given. ``1.0``, as pandas writes an integer,
            is ``1`` if that is one of them; without ``known``, if all labels are integers.

    Raises:
        UsageError: A label is not in ``label_map``.

    Examples:
        >>> as_names(["0.0", "1.0"], ["x.csv:2", "x.csv:3"], label_map={"0": "bad", "1": "good"})
        ['bad', 'good']
    """
    if label_map is None:
        return _as_integers(found, known)
    names = set(label_map.values())
    found = _as_integers(found, {*label_map, *names})
    for label, place in zip(found, places, strict=True):
        if label not in label_map and label not in names:
            raise UsageError(
                f"{place}: the label {shortened(label)} is not in data.label_map: "
                f"{suggest(label, label_map)}"
            )
    return [label_map.get(label, label) for label in found]


def _as_integers(found: Sequence[str], known: Collection[str]) -> list[str]:
    matches = [_WHOLE.fullmatch(label) for label in found]
    integers = [
        label if match is None else match[1] for label, match in zip(found, matches, strict=True)
    ]
    if known:
        return [
            integer if label not in known and integer in known else label
            for label, integer in zip(found, integers, strict=True)
        ]
    return integers if all(map(_INTEGER.fullmatch, integers)) else list(found)


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """The different names in order: as numbers, if all are integers.

    Examples:
        >>> sorted_names(["10", "9"]), sorted_names(["b", "a", "b"])
        (('9', '10'), ('a', 'b'))
    """
    different = set(names)
    numeric = all(map(_INTEGER.fullmatch, different))
    return tuple(sorted(different, key=int if numeric else None))


def number_of(names: Sequence[str]) -> dict[str, int]:
    """The number of each name.

    Raises:
        UsageError: A name occurs twice.
    """
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        raise UsageError(f"labels has a name twice: {list(names)}.")
    return numbers


def require_known(found: Sequence[str], places: Sequence[str], names: Sequence[str]) -> None:
    """Raises :class:`UnknownLabelError` for the first label that is not one of the names."""
    known = set(names)
    for label, place in zip(found, places, strict=True):
        if label not in known:
            raise UnknownLabelError(
                f"{place}: the label {shortened(label)} is not one of the classes: "
                f"{suggest(label, names)}"
            )


def warn_of_similar(names: Sequence[str], path: object) -> None:
    """Warns of classes that differ only by case, spaces or the form of their characters."""
    alike: dict[str, str] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if key in alike:
            warnings.warn(
                f"{path}: the labels {alike[key]!r} and {name!r} are two classes, although they "
                "differ only by case or spaces.",
                stacklevel=4,
            )
        alike.setdefault(key, name)


def read_label_names(path: str | Path) -> tuple[str, ...]:
    r"""Reads ``data.labels`` from a file: a JSON list, or a text file with a name on each line.

    Raises:
        UsageError: The file cannot be read, or does not list at least two different names.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels.txt")
        ...     _ = path.write_text("cat\ndog\n")
        ...     read_label_names(path)
        ('cat', 'dog')
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UsageError(f"data.labels: {shown(str(path))} is not a file: give a list or a file.")
    if path.suffix.lower() == ".json":
        content = read_json(path, list[Any])
    else:
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
        content = [line.strip() for line in lines if line.strip()]
    names = tuple(check_label(value, f"{path}: a name") for value in content)
    if not len(set(names)) == len(names) > 1:
        raise UsageError(f"{path} must list at least two different names, got {shown(names)}.")
    return names
