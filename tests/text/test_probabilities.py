"""Probabilities of classes in files: forms, checks, and what a distillation makes of them."""

import contextlib
import json

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.text.probabilities import Columns, read_probabilities

NAMES = ("cat", "dog", "fox")
P = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("form", ["list", "mapping", "columns", "text", "renamed"])
def test_every_form_gives_the_same_logarithms(form, is_log, tmp_path):
    with np.errstate(divide="ignore"):
        rows = np.log(P).tolist() if is_log else P
    named = [dict(zip(reversed(NAMES), reversed(row), strict=True)) for row in rows]
    where, label_map = "p", None
    if form == "columns":
        where = {name: f"p_{name}" for name in NAMES}
        content = [{f"p_{name}": value for name, value in row.items()} for row in named]
    else:
        values = {"list": rows, "mapping": named, "text": list(map(json.dumps, named))}
        values["renamed"] = [
            {str(NAMES.index(name)): v for name, v in row.items()} for row in named
        ]
        content = [{"p": value} for value in values[form]]
        if form == "renamed":
            label_map = {str(number): name for number, name in enumerate(NAMES)}
    columns = Columns("probabilities", where, is_log, label_map)
    path = written(tmp_path, content)
    found = read_probabilities(path, columns, NAMES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), P, rtol=1e-6)
    assert np.isneginf(found[1, 1:]).all()
    names = columns.names_in(path)
    assert names is None if form == "list" else sorted(names) == list(NAMES)


def test_columns_of_csv_files_are_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n0.25,0.75\n1e-3,0.999\n")
    columns = Columns("probabilities", {"x": "a", "y": "b"})
    found = np.exp(read_probabilities(path, columns, ("y", "x")))
    np.testing.assert_allclose(found, [[0.75, 0.25], [0.999, 0.001]], rtol=1e-5)
    assert columns.are_in({"a": 1, "b": 2})
    assert not columns.are_in({"a": 1})


def test_a_sum_that_is_nearly_1_is_divided_out(tmp_path):
    path = written(tmp_path, [{"p": [0.3335, 0.3335, 0.3335]}])
    found = read_probabilities(path, Columns("probabilities", "p"), NAMES)
    np.testing.assert_allclose(np.exp(found), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([0.5, 0.5], "has 2 numbers for 3 classes (cat, dog, fox)"),
        ({"cat": 0.5, "dog": 0.5}, "lacks the class 'fox'"),
        ({"cat": 0.5, "dog": 0.5, "foxx": 0}, "unknown class 'foxx': did you mean 'fox'"),
        ([0.5, 0.5, 0.5], "sums to 1.5, not to 1"),
        ([0.5, 0.7, -0.2], "has the probability -0.2, which is negative"),
        ([0.5, float("nan"), 0.5], "is NaN for 'dog'"),
        ([0.5, float("inf"), 0.5], "sums to inf, not to 1"),
        ([0.5, None, 0.5], "must be a number for 'dog', got None"),
        ([0.5, "many", 0.5], "must be a number for 'dog', got 'many'"),
        ([0.5, True, 0.5], "must be a number for 'dog', got True"),
        (0.5, "must be a list or a mapping, got 0.5"),
    ],
)
def test_bad_probabilities_name_file_and_line(value, says, tmp_path):
    path = written(tmp_path, [{"p": P[0]}, {"p": value}])
    with pytest.raises(UsageError) as error:
        read_probabilities(path, Columns("probabilities", "p"), NAMES)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{path}:2: the probabilities 'p'")


@pytest.mark.parametrize("is_log", [False, True])
def test_any_value_is_read_or_refused(is_log, tmp_path):
    odd = [
        None, True, "", "[", "{}", "[[]]", {}, [], [[]], {"cat": {}}, 10**400, [10**400] * 3,
        [1e308] * 3, [-1e308] * 3, ["1e999", "0", "0"], ["x" * 999] * 3, {"": 1, "dog": 0},
        [float("-inf"), 0.0, float("-inf")], "[1, 0, 0]", "\x1b[31m", [None] * 3, [1, 0, 0],
    ]  # fmt: skip
    for value in odd:
        path = written(tmp_path, [{"p": value}])
        with contextlib.suppress(UsageError):
            found = read_probabilities(path, Columns("probabilities", "p", is_log), NAMES)
            assert np.exp(found).sum() == pytest.approx(1), value


def test_bad_log_probabilities_are_refused(tmp_path):
    columns = Columns("log_probabilities", "p", is_log=True)
    for value, says in (
        ([0.5, -1.0, -1.0], "has the log-probability 0.5, which is above 0"),
        ([-9.0, -9.0, -9.0], "sums to 0.00037"),
        ([float("-inf")] * 3, "sums to 0, not to 1"),
    ):
        with pytest.raises(UsageError, match=says):
            read_probabilities(written(tmp_path, [{"p": value}]), columns, NAMES)
    with pytest.raises(UsageError, match="no column 'q' for log_probabilities: Allowed: 'p'"):
        read_probabilities(written(tmp_path, [{"p": [1]}]), columns._replace(where="q"), NAMES)
