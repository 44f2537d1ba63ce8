"""What a teacher from elsewhere said: probabilities of classes, from the columns of a file."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..errors import UsageError, abbreviate, shown, suggest
from ..json_files import parse_json
from .read import value_of
from .rows import Source, read_rows

TOLERANCE = 1e-3
"""How far the sum of probabilities may be from 1; it is then divided out."""


class Columns(NamedTuple):
    """Where a file holds the probabilities of the classes.

    Attributes:
        field: The field of ``data`` that says so.
        where: A column that holds a list or a mapping, or a column for each class.
        is_log: Whether it holds natural logarithms.
        label_map: Names of the classes by those of a mapping in a file.
    """

    field: str
    where: str | Mapping[str, str]
    is_log: bool = False
    label_map: Mapping[str, str] | None = None

    def are_in(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has them."""
        wanted = [self.where] if isinstance(self.where, str) else self.where.values()
        return all(column in row for column in wanted)

    def names_in(self, path: Source) -> tuple[str, ...] | None:
        """The classes that the columns or the first row name, sorted; ``None`` for lists.

        Raises:
            UsageError: The file cannot be read.
        """
        if not isinstance(self.where, str):
            return tuple(self.where)
        for line, row in read_rows(path):
            value = _parsed(
                value_of(row, self.where, self.field, f"{path}:{line}"), f"{path}:{line}"
            )
            if not isinstance(value, Mapping):
                return None
            return tuple(sorted(self._name(key) for key in value))
        return None

    def _name(self, key: str) -> str:
        return (self.label_map or {}).get(key, key)


def read_probabilities(
    path: Source, columns: Columns, names: Sequence[str]
) -> Float[np.ndarray, "examples classes"]:
    """Reads a distribution over the classes from each row of a file.

    Args:
        path: The file.
        columns: Where they are.
        names: The classes in order.

    Returns:
        Natural logarithms, float32; ``-inf`` for a probability of 0. As logits they give the same
        distribution, and at a temperature :math:`T` that of :math:`p^{1/T}`.

    Raises:
        UsageError: A class is missing or unknown, a number is missing, NaN, negative or infinite,
            or the sum is not 1; the message names file and line.
    """
    number = {name: position for position, name in enumerate(names)}
    rows = []
    for line, row in read_rows(path):
        place = f"{path}:{line}"
        given = columns.where
        if isinstance(given, str):
            value = _parsed(value_of(row, given, columns.field, place), place)
            where = f"{place}: the {columns.field} {given!r}"
        else:
            value = {name: value_of(row, own, columns.field, place) for name, own in given.items()}
            where = f"{place}: the {columns.field}"
        if isinstance(value, Mapping):
            value = _in_order(
                {columns._name(key): item for key, item in value.items()}, number, where
            )
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where} must be a list or a mapping, got {shown(value)}.")
        if len(value) != len(names):
            raise UsageError(
                f"{where} has {len(value)} numbers for {len(names)} classes ({abbreviate(names)})."
            )
        numbers = [_number(item, name, where) for item, name in zip(value, names, strict=True)]
        rows.append(_logarithms(np.array(numbers), columns.is_log, where))
    if not rows:
        raise UsageError(f"{path} is empty: it has no examples.")
    return np.stack(rows).astype(np.float32)


def _parsed(value: Any, place: str) -> Any:
    """A list or mapping of a file without types (CSV), which is written as JSON."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        return parse_json(value, place)
    return value


def _in_order(given: Mapping[str, Any], number: Mapping[str, int], where: str) -> list[Any]:
    for name in given:
        if name not in number:
            raise UsageError(f"{where} names an unknown class {name!r}: {suggest(name, number)}")
    missing = [name for name in number if name not in given]
    if missing:
        raise UsageError(f"{where} lacks the class {missing[0]!r}.")
    return [given[name] for name in number]


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    is_number = isinstance(value, float) or (type(value) is int and abs(value) < 2**53)
    if not is_number:
        raise UsageError(f"{where} must be a number for {name!r}, got {shown(value)}.")
    if math.isnan(value):
        raise UsageError(f"{where} is NaN for {name!r}, a missing value.")
    return float(value)


def _logarithms(
    numbers: Float[np.ndarray, " classes"], is_log: bool, where: str
) -> Float[np.ndarray, " classes"]:
    if is_log and numbers.max() > TOLERANCE:
        raise UsageError(f"{where} has the log-probability {numbers.max():g}, which is above 0.")
    if not is_log and numbers.min() < 0:
        raise UsageError(f"{where} has the probability {numbers.min():g}, which is negative.")
    probabilities = np.exp(numbers) if is_log else numbers
    with np.errstate(over="ignore"):
        total = probabilities.sum()
    if not abs(total - 1) <= TOLERANCE:
        raise UsageError(
            f"{where} sums to {total:g}, not to 1: list the probabilities of all classes."
        )
    if is_log:
        return numbers - np.log(total)
    with np.errstate(divide="ignore"):
        return np.log(numbers) - np.log(total)
