"""Parses YAML and JSON of a job: strictly, as untrusted input, into plain values."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError, escaped, reason_of
from ..json_files import DEEPEST, parse_json

LARGEST_FILE = 10_000_000
"""Bytes beyond which a file is refused; no job comes near it."""

_TABLES = frozenset({".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".conll"})
"""Ends of the names of files with texts."""

_MOST_VALUES = 100_000
"""Number of values, aliases written out, beyond which a file is refused."""


def read_job_file(path: Path) -> dict[str, Any]:
    """The content of a job file.

    Raises:
        UsageError: The file cannot be read or parsed, or does not hold a mapping.
    """
    if path.suffix in _TABLES:
        raise UsageError(
            f"{path} is a file of texts, not a job: a job is a YAML or JSON file that names it, as "
            "data.train for example (docs/command-line.md)."
        )
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {reason_of(error)}.") from None
    if len(content) > LARGEST_FILE:
        raise UsageError(f"{path} is larger than {LARGEST_FILE:,} bytes: it is not a job.")
    value = parse_json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a mapping with the sections of a job.")
    return require_plain(value, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Parses YAML as :func:`read_job_file` does.

    Args:
        text: The YAML.
        source: The name of its origin in messages.

    Raises:
        UsageError: It is not YAML, or not a plain value.

    Examples:
        >>> parse_yaml("{rate: 1e-4, day: 2026-01-01}", "job.yaml")
        {'rate': 0.0001, 'day': '2026-01-01'}
    """
    try:
        _require_shallow(text, source)
        return require_plain(yaml.load(text, _Loader), source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{source}{line} cannot be parsed: {error.problem}.") from None
    except yaml.reader.ReaderError as error:
        character = escaped(chr(error.character)) if isinstance(error.character, int) else "?"
        raise UsageError(
            f"{source} cannot be parsed: the character {character} is not allowed."
        ) from None


def _require_shallow(text: str, source: str) -> None:
    """Refuses deep nesting before the loader, which is recursive and quadratic in it."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UsageError(f"{source} is nested deeper than {DEEPEST} levels.")


class _Loader(yaml.SafeLoader):
    """YAML with JSON's kinds of values, unique keys, and ``1e-4`` as a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a key that occurs twice is an error."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                name = key.value if isinstance(key.value, str) else None
                if name is not None and name != "<<" and name in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {name!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value; one that its explicit tag does not fit is an error."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # how SafeLoader fails for "!!bool x", "!!timestamp x" or an integer of 5,000 digits
            tag = node.tag.rpartition(":")[2]
            given = str(node.value)[:40]
            raise yaml.MarkedYAMLError(
                problem=f"{given!r} is not a valid {tag}", problem_mark=node.start_mark
            ) from error


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in rows if not tag.endswith(":timestamp")]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def require_plain(value: Any, source: str) -> Any:
    """Checks that a parsed file is made of plain values, and returns a copy without shared parts.

    Integers that are keys, such as the labels of ``label_map``, become strings.

    Raises:
        UsageError: It is nested too deeply, contains itself or too many values, an integer beyond
            64 bits, a key that is not a name, or text that no file name or label can be.

    Examples:
        >>> require_plain({"seed": 10**30}, "job.json")
        Traceback (most recent call last):
        jaxbrewer.errors.UsageError: job.json: an integer has more than 64 bits.
    """
    sizes: dict[int, tuple[int, int]] = {}
    inside: set[int] = set()

    def measure(value: Any) -> tuple[int, int]:
        """Number of values, and of levels; each container is walked once, however often used."""
        if not isinstance(value, (dict, list)):
            _require_scalar(value, source)
            return 1, 0
        if id(value) in inside:
            raise UsageError(f"{source}: a value contains itself (by an anchor).")
        if len(inside) >= DEEPEST:
            raise UsageError(f"{source} is nested deeper than {DEEPEST} levels.")
        if id(value) not in sizes:
            inside.add(id(value))
            if isinstance(value, dict):
                for key in value:
                    _require_key(key, source)
            parts = [measure(part) for part in _parts(value)]
            count = 1 + sum(count for count, _ in parts)
            sizes[id(value)] = count, 1 + max((levels for _, levels in parts), default=0)
            inside.discard(id(value))
        count, levels = sizes[id(value)]
        if count > _MOST_VALUES:
            raise UsageError(f"{source} has more than {_MOST_VALUES:,} values.")
        if len(inside) + levels > DEEPEST:
            raise UsageError(f"{source} is nested deeper than {DEEPEST} levels.")
        return count, levels

    measure(value)
    return _copied(value)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _parts(value: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _require_key(key: Any, source: str) -> None:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise UsageError(f"{source}: the key {str(key)[:40]!r} is not a name.")
    _require_scalar(key, source)


def _require_scalar(value: Any, source: str) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UsageError(f"{source}: an integer has more than 64 bits.")
    if isinstance(value, str):
        if "\0" in value:
            raise UsageError(f"{source}: {value[:40]!r} contains the character NUL.")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UsageError(f"{source}: {value[:40]!r} contains half a surrogate pair.")
    elif not isinstance(value, (bool, int, float, type(None))):
        raise UsageError(
            f"{source}: {str(value)[:40]!r} is a {type(value).__name__}, which no field takes."
        )
