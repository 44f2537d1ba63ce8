"""Reads JSON strictly and writes it atomically: a file on disk is untrusted input.

A file that is damaged, or valid JSON of another shape, is a :class:`UsageError` of one line that
names the file and the entry. Every file that the package reads back goes through here.
"""

import collections.abc
import contextlib
import dataclasses
import os
import threading
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from .errors import UsageError, reason_of

T = TypeVar("T")

DEEPEST = 100
"""Nesting beyond which a file is refused; no file of this package comes near it."""

_NAMES: dict[Any, str] = {
    None: "null", type(None): "null", bool: "true or false", int: "an integer", float: "a number",
    str: "a string",
}  # fmt: skip
_LISTS = (list, tuple, collections.abc.Sequence)
_OBJECTS = (dict, collections.abc.Mapping)


def read_json(path: str | Path, kind: type[T]) -> T:
    """Reads a JSON file and checks that it has the given shape.

    Args:
        path: The file.
        kind: A :class:`~typing.TypedDict`, a dataclass, or any annotation that
            :func:`conform` takes.

    Returns:
        The plain value, also for a dataclass.

    Raises:
        UsageError: The file is missing or cannot be read, is not JSON, or has another shape.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    return conform(parse_json(content, str(path)), kind, str(path))


def parse_json(text: str | bytes, source: str) -> Any:
    """Parses JSON; keys must be unique and nesting at most :data:`DEEPEST`.

    Args:
        text: The JSON; bytes must be UTF-8.
        source: The name of its origin in messages.

    Raises:
        UsageError: It is not JSON, or breaks one of these rules.

    Examples:
        >>> parse_json('{"a": 1, "a": 2}', "job.json")
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: job.json is not valid JSON: the key 'a' occurs twice.
    """
    import json  # a job in YAML is refused without it

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_unique)
    except RecursionError:
        raise UsageError(f"{source} is nested deeper than {DEEPEST} levels.") from None
    except ValueError as error:
        raise UsageError(f"{source} is not valid JSON: {str(error).rstrip('.')}.") from None
    if _is_deeper_than(value, DEEPEST):
        raise UsageError(f"{source} is nested deeper than {DEEPEST} levels.")
    return value


def conform(value: Any, kind: type[T], source: str) -> T:
    """Checks that a parsed JSON value has a shape, and returns it.

    Args:
        value: From :func:`parse_json`.
        kind: ``bool``, ``int`` (64 bits), ``float``, ``str``, ``Any``, ``Literal``, a union of
            kinds, ``list[kind]``, ``dict[str, kind]``, a ``TypedDict`` or a dataclass, whose fields
            without a default are required. Further keys of an object are allowed.
        source: The name of its origin in messages.

    Raises:
        UsageError: Names the first entry that has another kind.

    Examples:
        >>> class Row(typing.TypedDict):
        ...     step: int
        >>> conform({"step": "3"}, Row, "metrics.jsonl")
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: metrics.jsonl: step must be an integer, got '3'.
    """
    for place, problem in _problems(value, kind, ""):
        raise UsageError(f"{source}: {place or 'the content'} {problem}.")
    return value


def is_there(path: str | Path) -> bool:
    """Whether a path exists; a link whose target is missing does not.

    Raises:
        UsageError: The path cannot be looked up: its name is too long or holds characters that no
            file name can have, or permission is denied.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    return True


def write_json(path: Path, value: Any) -> None:
    """Replaces a file atomically: it has its old content or the whole new one, never a part.

    Raises:
        UsageError: It cannot be written.
    """
    import json

    replace_file(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file atomically.

    Raises:
        UsageError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {reason_of(error)}.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} occurs twice")
        found[name] = value
    return found


def _is_deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        containers = [item for item in level if isinstance(item, (dict, list))]
        level = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _problems(value: Any, kind: Any, place: str) -> Iterator[tuple[str, str]]:
    """The entries that do not have their kind, and what each must be."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if kind is Any or kind is object:
        return
    if origin in (types.UnionType, Union):
        if all(any(_problems(value, option, place)) for option in arguments):
            structured = [option for option in arguments if _is_like(value, option)]
            if structured:  # the entry inside it is more precise than the union
                yield from _problems(value, structured[0], place)
            else:
                yield place, _must_be(kind, value)
    elif origin in _LISTS or origin in _OBJECTS or _fields_of(kind) is not None:
        if not _is_like(value, kind):
            yield place, _must_be(kind, value)
        elif origin in _LISTS:
            for index, item in enumerate(value):
                yield from _problems(item, arguments[0], f"{place}[{index}]")
        elif origin in _OBJECTS:
            for name, item in value.items():
                yield from _problems(item, arguments[1], f"{place}.{name}".strip("."))
        else:
            for name, (inner, required) in (_fields_of(kind) or {}).items():
                if name in value:
                    yield from _problems(value[name], inner, f"{place}.{name}".strip("."))
                elif required:
                    yield place, f"lacks {name!r}"
    elif not _is_plain(value, kind):
        yield place, _must_be(kind, value)


def _is_plain(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return any(type(value) is type(option) and value == option for option in kind.__args__)
    if kind is None or kind is type(None):
        return value is None
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    if kind is float:
        return type(value) is float or (type(value) is int and abs(value) < 10**300)
    return type(value) is kind


def _is_like(value: Any, kind: Any) -> bool:
    """Whether a value is a container of this kind; its items are not checked."""
    origin = typing.get_origin(kind)
    if origin in _LISTS:
        return isinstance(value, list)
    return (origin in _OBJECTS or _fields_of(kind) is not None) and isinstance(value, dict)


def _fields_of(kind: Any) -> Mapping[str, tuple[Any, bool]] | None:
    """Kind of each field, and whether it is required; ``None`` for other kinds."""
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        return {name: (hint, name in kind.__required_keys__) for name, hint in hints.items()}
    if dataclasses.is_dataclass(kind):
        hints, missing = typing.get_type_hints(kind), dataclasses.MISSING
        return {
            field.name: (
                hints[field.name],
                field.default is missing and field.default_factory is missing,
            )
            for field in dataclasses.fields(kind)
        }
    return None


def _must_be(kind: Any, value: Any) -> str:
    shown = repr(value)
    return f"must be {_described(kind)}, got {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _described(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, Union):
        return " or ".join(map(_described, typing.get_args(kind)))
    if origin is Literal:
        return " or ".join(map(repr, kind.__args__))
    if origin in _LISTS:
        return "a list"
    return _NAMES.get(kind, "an object")
