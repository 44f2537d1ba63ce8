"""Untrusted JSON: one line names the file and the entry."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from jaxbrewer.errors import UsageError, escaped
from jaxbrewer.json_files import conform, parse_json, read_json, write_json


class Inner(TypedDict):
    name: str
    shape: list[int]


class Outer(TypedDict):
    format: Literal[1]
    rate: float
    done: bool
    inner: list[Inner]
    scores: dict[str, float]
    note: NotRequired[str | None]


@dataclasses.dataclass
class Record:
    names: Mapping[str, str]
    inputs: Sequence[str] | None
    count: int = 0


GOOD: dict[str, Any] = {
    "format": 1, "rate": 2, "done": False, "inner": [{"name": "a", "shape": [1]}],
    "scores": {"f1": 0.5}, "unknown": None,
}  # fmt: skip


def test_a_value_of_the_right_shape_is_returned():
    assert conform(GOOD, Outer, "x") is GOOD
    assert conform({**GOOD, "note": None}, Outer, "x")["note"] is None
    assert conform({"names": {}, "inputs": ["a"]}, Record, "x") == {"names": {}, "inputs": ["a"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "x: format must be 1, got 2."),
        ({"format": True}, "x: format must be 1, got True."),
        ({"rate": "2"}, "x: rate must be a number, got '2'."),
        ({"rate": True}, "x: rate must be a number, got True."),
        ({"rate": 10**400}, "x: rate must be a number"),
        ({"done": 0}, "x: done must be true or false, got 0."),
        ({"inner": {}}, "x: inner must be a list, got {}."),
        ({"inner": [[]]}, r"x: inner\[0\] must be an object, got \[\]."),
        ({"inner": [{"name": "a"}]}, r"x: inner\[0\] lacks 'shape'."),
        ({"inner": [{"name": "a", "shape": [2**63]}]}, r"x: inner\[0\].shape\[0\] must be an int"),
        ({"scores": {"f1": None}}, "x: scores.f1 must be a number, got None."),
        ({"note": 3}, "x: note must be a string or null, got 3."),
    ],
)
def test_the_entry_with_another_kind_is_named(change, says):
    with pytest.raises(UsageError, match=f"^{says}"):
        conform({**GOOD, **change}, Outer, "x")


def test_an_entry_inside_an_optional_list_is_named():
    with pytest.raises(UsageError, match=r"^x: inputs\[1\] must be a string, got 3.$"):
        conform({"names": {}, "inputs": ["a", 3]}, Record, "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "x is not valid JSON: Expecting value"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "x is not valid JSON: the key 'c' occurs twice"),
        ("[" * 101 + "]" * 101, "x is nested deeper than 100 levels"),
        ("[" * 10**5, "x is nested deeper than 100 levels"),
        ("9" * 5000, "x is not valid JSON: .*digits"),
        (b"\xff", "x is not valid JSON: .*utf-8"),
    ],
)
def test_text_that_is_not_json_is_refused_in_one_line(text, says):
    with pytest.raises(UsageError, match=f"^{says}") as error:
        parse_json(text, "x")
    assert str(error.value).isprintable()


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "a", tmp_path / "a\0b", tmp_path / "\ud800", "x" * 300):
        with pytest.raises(UsageError, match="cannot be read: ") as error:
            read_json(path, Outer)
        assert str(error.value).isprintable()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "file.json", GOOD)
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(ValueError, match="Circular"):
        write_json(tmp_path / "file.json", deep)
    assert read_json(tmp_path / "file.json", Outer) == GOOD
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_control_characters_in_messages_are_escaped():
    message = str(UsageError("no label 'a\n\x1b[2J\u2028\ud800' in é日.csv"))
    assert message == "no label 'a\\n\\x1b[2J\\u2028\\ud800' in é日.csv"
    assert escaped(json.dumps("é\t")) == '"\\u00e9\\t"'
