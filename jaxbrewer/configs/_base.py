"""Reading, writing and checking: what all configs share."""

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ..errors import UsageError, suggest


class Config:
    """Reading, writing and checking that all configs share."""

    @classmethod
    def from_dict(cls, dict_object: Mapping[str, Any]) -> Self:
        """Builds the config from a dict; unknown keys raise :class:`UsageError`."""
        if not isinstance(dict_object, Mapping):
            raise UsageError(f"{cls.__name__} must be a mapping, got {dict_object!r}.")
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in dict_object:
            if key not in names:
                raise UsageError(f"{cls.__name__} has no field {key!r}: {suggest(key, names)}")
        try:
            return cls(**dict_object)
        except TypeError as error:  # a required field is missing
            message = str(error).removeprefix(f"{cls.__name__}.__init__() ")
            raise UsageError(f"{cls.__name__} is {message}.") from None

    @classmethod
    def from_json_file(cls, json_filename: str | Path) -> Self:
        """Builds the config from a JSON file; TextBrewer's own files load as they are."""
        try:
            values = json.loads(Path(json_filename).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{json_filename}: {error.strerror or error}.") from None
        except ValueError as error:  # no JSON, or no UTF-8
            raise UsageError(f"{json_filename} is not valid JSON: {error}.") from None
        return cls.from_dict(values)

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
                :func:`register_new` and use the name.
        """
        name = type(self).__name__

        def refuse(value: object) -> None:
            raise UsageError(
                f"{name} holds the function {value!r}, which JSON cannot: give it a name with "
                "register_new and use the name."
            )

        return json.dumps(self.to_dict(), indent=indent, default=refuse)

    def to_json_file(self, json_filename: str | Path) -> None:
        """Writes :meth:`to_json` to a file."""
        Path(json_filename).write_text(self.to_json() + "\n", encoding="utf-8")

    def require(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            given = getattr(self, field)
            raise UsageError(f"{type(self).__name__}.{field} must be {allowed}, got {given!r}.")

    def require_number(
        self, field: str, *, minimum: float | None = None, whole: bool = False
    ) -> None:
        value = getattr(self, field)
        holds = is_int(value) if whole else is_number(value)
        kind = "an int" if whole else "a finite number"
        bound = "" if minimum is None else f" >= {minimum}"
        self.require(field, holds and (minimum is None or value >= minimum), kind + bound)

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
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False
