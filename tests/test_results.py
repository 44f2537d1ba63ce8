"""Every result in the pages comes from ``docs/results``."""

import json
import re

import pytest

from tools.update_results import MARKER, ROOT, filled, pages, table_of, updated

PAGES = pages()
NUMBER = r"[~±<≤]?\s*[+-]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?\s?(?:%|x|M|GB|MB|kB|ms|s|nats|/s)?"
NUMBERS = re.compile(rf"{NUMBER}(?:\s?(?:±|to|of|;|,|\(|\)|/)*\s?(?:{NUMBER})?\)?)*")
MEASURED = re.compile(r"\d\.\d|\.\d|\d\s?%|e-\d|±")
NOT_MEASURED = {
    "migration.md": "groups of golden cases, by number",
    "scaling.md": "dtypes of the levels",
}
"""Pages whose tables hold numbers that no program measured."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_show_what_is_recorded(page):
    text = page.read_text(encoding="utf-8")
    assert updated(text) == text, f"{page.name} is out of date: python tools/update_results.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_marker_in_a_sentence_does_not_begin_its_line(page):  # it would end the paragraph
    for line in page.read_text(encoding="utf-8").splitlines():
        assert not re.match(r"\s*<!-- results: .*-->.", line), line


def tables_outside_markers(text):
    """Rows of tables that no marker encloses and no fence shows."""
    text = re.sub(r"^```.*?^```", "", MARKER.sub("", text), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^\|.*\|$", text, re.MULTILINE)


def is_result(row):
    """Whether a row has a cell of measured numbers, or two of numbers, after its first cell."""
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    numbers = [cell for cell in cells if NUMBERS.fullmatch(cell)]
    return len(numbers) > 1 or any(MEASURED.search(cell) for cell in numbers)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_results_are_generated(page):
    rows = tables_outside_markers(page.read_text(encoding="utf-8"))
    found = [row for row in rows if is_result(row)]
    assert page.name in NOT_MEASURED or not found, (
        "record these numbers in docs/results and show them with a marker (CONTRIBUTING.md):\n"
        + "\n".join(found)
    )


@pytest.mark.parametrize(
    "row",
    ["| teacher | 77.9% |", "| kl | 8.099 ± 0.005 | 3 |", "| a | 12 | 14 |", "| b | 0.27 (0.92) |",
     "| c | 1.4e-7 |", "| d | 43.6 ms | |"],
)  # fmt: skip
def test_a_typed_result_is_noticed(row):
    assert is_result(row)


@pytest.mark.parametrize(
    "row", ["| `cos` | 1 - cos(s, t) | 0 | same |", "| `beta` | `beta` = 0.5 |", "| a | 1 |"]
)
def test_a_table_of_facts_is_no_result(row):
    assert not is_result(row)


RESULTS = sorted((ROOT / "docs" / "results").rglob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_names_the_command_that_made_it(path):
    assert json.loads(path.read_text(encoding="utf-8"))["command"]


DATA = {"n": 1200, "rows": [{"name": "a", "score": 0.25}, {"name": "b", "score": None}]}


def test_a_marker_keeps_its_template_and_replaces_the_rest():
    text = "x <!-- results: r {n:,} -->1<!-- end --> y\n<!-- results: r -->\nold\n<!-- end -->\n"
    shown = updated(text, lambda name: DATA)
    assert shown == (
        "x <!-- results: r {n:,} -->1,200<!-- end --> y\n<!-- results: r -->\n\n"
        "|  | score |\n|---|--:|\n| a | 0.25 |\n| b |  |\n\n<!-- end -->\n"
    )
    assert updated(shown, lambda name: DATA) == shown


def test_a_template_repeats_lines_of_a_list():
    assert filled("{n}\n{rows[][name]}: {rows[][score]:.0%}", DATA) == "1200\na: 25%\nb: "
    assert table_of(DATA["rows"]).splitlines()[2] == "| {rows[][name]} | {rows[][score]:.4g} |"


@pytest.mark.parametrize("marker", ["r {unknown} -->", "none -->", "r {rows[][name]} {n[]} -->"])
def test_a_marker_that_cannot_be_filled_is_an_error(marker):
    results = {"r": DATA}
    with pytest.raises(SystemExit, match="results: "):
        updated(f"<!-- results: {marker}<!-- end -->", lambda name: results[name])
