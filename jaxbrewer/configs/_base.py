"""Reading, writing and checking: what all configs share."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..errors import UsageError, shown, suggest
from ..json_files import read_json

DEEPEST = 50
"""Nesting of lists and dicts beyond which a field is refused; a cycle has no end."""
MOST_ITEMS = 100_000
"""Values in lists and dicts beyond which a field is refused; a file may repeat one list."""
LARGEST_COUNT = 2**31 - 1
"""Counts of steps and examples are 32-bit integers on the devices."""
LARGEST_SEED = 2**32 - 1
"""A seed beyond that would be cut off to 32 bits, and be the seed 0 for 2**32."""


LARGEST = 3.4028234663852886e38
"""Numbers beyond it are infinite in float32."""


class Config:
    """Reading, writing and checking that all configs share."""

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Refuses names that are no fields, and required fields that are missing."""
        if args or values:  # a copy is made without any
            cls._require_fields(args, values)
            if _is_too_large([args, values]):
                raise UsageError(
                    f"{cls.__name__} has a field that is nested deeper than {DEEPEST} levels, or "
                    f"holds more than {MOST_ITEMS} values."
                )
        return super().__new__(cls)

    @classmethod
    def require_names(cls, values: Mapping[str, Any]) -> None:
        """Raises :class:`UsageError` if a key is no field."""
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in names:
                raise UsageError(f"{cls.__name__} has no field {shown(key)}: {suggest(key, names)}")

    @classmethod
    def _require_fields(cls, args: tuple[Any, ...], values: Mapping[str, Any]) -> None:
        cls.require_names(values)
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        positional = [field.name for field in fields if not field.kw_only]
        if len(args) > len(positional):
            raise UsageError(
                f"{cls.__name__} takes {len(positional)} values by position, got {len(args)}: "
                "give the others by name."
            )
        given = {*positional[: len(args)], *values}
        missing = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in given
        ]
        if missing:
            raise UsageError(f"{cls.__name__} needs {' and '.join(map(repr, missing))}.")

    @classmethod
    def from_dict(cls, dict_object: Mapping[str, Any]) -> Self:
        """Builds the config from a dict; unknown keys raise :class:`UsageError`."""
        if not isinstance(dict_object, Mapping):
            raise UsageError(f"{cls.__name__} must be a mapping, got {shown(dict_object)}.")
        cls._require_fields((), dict_object)
        return cls(**dict_object)

    @classmethod
    def from_json_file(cls, json_filename: str | Path) -> Self:
        """Builds the config from a JSON file; TextBrewer's own files load as they are.

        Raises:
            UsageError: The file cannot be read, is not JSON, repeats a key, or holds a value that
                cannot be used.
        """
        return cls.from_dict(read_json(json_filename, Any))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; ``from_dict`` gives the same config back.

        A function that was given as a schedule stays a function.
        """
        return {
            field.name: plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The config as JSON text.

        Raises:
            UsageError: A field holds a function, which JSON cannot; name it with
                :func:`register_new`, under which it means the same, and use the name.
        """
        import json  # a job in YAML is refused without it

        name = type(self).__name__

        def refuse(value: object) -> None:
            raise UsageError(
                f"{name} holds {shown(value)}, which JSON cannot: give the function a name with "
                "register_new, under which it means the same, and use the name."
            )

        try:
            return json.dumps(self.to_dict(), indent=indent, default=refuse)
        except TypeError as error:
            raise UsageError(f"{name} cannot become JSON: {error}.") from None

    def to_json_file(self, json_filename: str | Path) -> None:
        """Writes :meth:`to_json` to a file."""
        Path(json_filename).write_text(self.to_json() + "\n", encoding="utf-8")

    def require(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            given = shown(getattr(self, field))
            raise UsageError(f"{type(self).__name__}.{field} must be {allowed}, got {given}.")

    def require_number(
        self,
        field: str,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        whole: bool = False,
    ) -> None:
        """Raises :class:`UsageError` unless a field is a number in a range.

        Args:
            field: Its name.
            minimum: The least value.
            maximum: The largest; of a whole number :data:`LARGEST_COUNT` if it is not given.
            whole: Whether it must be an int.
        """
        value = getattr(self, field)
        if whole and maximum is None:
            maximum = LARGEST_COUNT
        holds = is_int(value) if whole else is_number(value)
        holds = holds and (minimum is None or value >= minimum)
        holds = holds and (maximum is None or value <= maximum)
        kind = "an int" if whole else "a finite number"
        if is_int(value) and maximum is not None and value > maximum:
            self.require(field, False, f"{kind} <= {maximum}")
        self.require(field, holds, kind + ("" if minimum is None else f" >= {minimum}"))

    def require_positive(self, field: str) -> None:
        """Raises :class:`UsageError` unless a field is a finite number above 0."""
        value = getattr(self, field)
        self.require(field, is_number(value) and value > 0, "a positive number")

    def require_flag(self, field: str) -> None:
        """Makes a field a ``bool``; raises :class:`UsageError` unless it is one, or 0 or 1."""
        value = getattr(self, field)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):  # NumPy's scalars
            value = value.item()
        holds = isinstance(value, int) and value in (0, 1)
        self.require(field, holds, "true or false")
        object.__setattr__(self, field, bool(value))

    def require_choice(self, field: str, choices: Sequence[str]) -> None:
        """Raises :class:`UsageError` unless a field is one of some strings."""
        value = getattr(self, field)
        self.require(
            field, isinstance(value, str) and value in choices, " or ".join(map(repr, choices))
        )

    def nest(self, field: str, cls: "type[Config]") -> None:
        """Builds a section from a mapping; ``None`` is the section's default."""
        value = getattr(self, field)
        if not isinstance(value, cls):
            try:
                object.__setattr__(self, field, cls.from_dict({} if value is None else value))
            except UsageError as error:
                raise UsageError(f"{field}: {error}") from None

    def freeze(self, field: str) -> None:
        object.__setattr__(self, field, frozen(getattr(self, field)))


def _is_too_large(value: Any) -> bool:
    """Whether containers are nested or hold more than any config: cycles, lists of one list."""
    known: dict[int, tuple[float, float]] = {}

    def measure(container: Any, depth: int) -> tuple[float, float]:
        """Values inside a container and levels of nesting, measured once for each object."""
        if depth > DEEPEST:
            return math.inf, math.inf
        if id(container) not in known:
            known[id(container)] = math.inf, math.inf  # until it is known: a cycle has no end
            is_list = isinstance(container, (list, tuple))
            items = container if is_list else list(container.values())
            inner = [
                measure(item, depth + 1)
                for item in items
                if isinstance(item, (list, tuple, Mapping))
            ]
            number = len(items) + sum(number for number, _ in inner)
            known[id(container)] = number, 1 + max((levels for _, levels in inner), default=0)
        return known[id(container)]

    number, levels = measure(value, 0)
    return number > MOST_ITEMS or levels > DEEPEST + 1


def plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def frozen(value: Any) -> Any:
    """A deep copy with tuples for lists, so that nobody else's list can change it."""
    if isinstance(value, Mapping):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    return value


def is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return abs(float(value)) <= LARGEST  # false for NaN
    except (OverflowError, TypeError):  # an int beyond all floats
        return False
