"""Fields of a job on the command line: ``--section.field VALUE``.

Imports no library, so that help and versions come at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError, suggest


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the words that are not overrides, and the overrides.

    Examples:
        >>> split_overrides(["train", "--data.max_length", "64", "job.yaml", "--dry-run"])
        (['train', 'job.yaml', '--dry-run'], ['--data.max_length', '64'])
    """
    rest: list[str] = []
    overrides: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(word)
            continue
        overrides.append(word)
        if not equals and words:
            overrides.append(words.pop(0))
    return rest, overrides


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings, and lists of mappings, to one mapping with dotted names.

    Examples:
        >>> flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [3, 4]})
        {'a.b': 1, 'c.0.d': 2, 'e': [3, 4]}
    """
    if isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value):
        value = {str(number): item for number, item in enumerate(value)} or value
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}".strip("."))
    return flat


def parse_overrides(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """Parses ``--a.b value`` and ``--a.b=value`` into names and values.

    Raises:
        UsageError: An override has no value, or one that is not YAML.
    """
    from .job_files import parse_yaml

    pairs, words = [], list(overrides)
    while words:
        word = words.pop(0)
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UsageError(f"The override {word} needs a value.")
            value = words.pop(0)
        try:
            pairs.append((name, parse_yaml(value, "the value")))
        except UsageError:
            shown = value if len(value) <= 60 else f"{value[:57]}..."
            raise UsageError(f"The value of {word[:60]} cannot be read: {shown!r}.") from None
    return pairs


def apply_override(content: dict[str, Any], name: str, value: Any) -> None:
    """Sets a value in the content of a job file.

    Raises:
        UsageError: The name leads through a value that is no section.
    """
    *parents, last = name.split(".")
    place: Any = content
    for parent in parents:
        if isinstance(place, list):
            place = place[_index(place, parent, name)]
        else:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
        if not isinstance(place, (dict, list)):
            raise UsageError(f"--{name}: {parent!r} is {place!r}, not a section.")
    if isinstance(place, list):
        place[_index(place, last, name)] = value
    else:
        place[last] = value


def _index(items: list[Any], text: str, name: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        numbers = suggest(text, range(len(items)))
        raise UsageError(f"--{name}: the list has no item {text!r}. {numbers}")
    return int(text)
