"""The table of an evaluation: a row for each number, a column for each model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..text.gain import describe_gain
from .output import format_bytes, print_line, print_table

if TYPE_CHECKING:
    from ..run.results import Scores
    from ..text.evaluation import Evaluation

_COLUMNS = 3
"""Columns of a table, so that it fits 100 characters."""

_SIZES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("parameters", "parameters", "{:,}".format),
    ("size", "bytes", format_bytes),
    ("latency p50, p95", "latency_ms", lambda value: _latency(value)),
    ("texts/s", "examples_per_second", "{:,.0f}".format),
)


def print_evaluation(evaluation: "Evaluation", *, file: str) -> None:
    """Prints the scores of all models, in tables of at most three columns.

    Args:
        evaluation: The scores.
        file: The file with the examples.
    """
    rows = evaluation["rows"]
    columns = {name: _column(scores) for name, scores in rows.items()}
    for name, scores in rows.items():
        if "difference" in scores:
            cells = _cells(scores["difference"], scores["difference_intervals"])
            columns[f"{name} - teacher"] = cells
    for name, scores in rows.items():
        if "gain" in scores:
            gain = scores["gain"]
            cells = _cells(gain["difference"], gain["difference_intervals"])
            columns[f"{name} - baseline"] = cells
    title = f"{evaluation['examples']:,} texts of {file}, on {evaluation['device']}"
    for start in range(0, len(columns), _COLUMNS):
        if start:
            print_line("")
        _print_columns(dict(list(columns.items())[start : start + _COLUMNS]), title)
        title = ""
    for scores in rows.values():
        if "gain" in scores:
            print_line(describe_gain(scores["gain"], evaluation["main_metric"]))
    for name, scores in rows.items():
        if scores.get("cut"):
            who = "" if len(rows) == 1 else f" for the {name}"
            print_line(f"Texts that were cut to the maximum length{who}: {scores['cut']:,}.")
        if "selective" in scores:
            print_line(_selection(name, scores["selective"]))
        if scores.get("details"):
            _print_details(name, scores["details"])


def _print_columns(columns: Mapping[str, Mapping[str, str]], title: str) -> None:
    sizes = [name for name, *_ in _SIZES]
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    order = sorted(names, key=lambda name: name in sizes)  # those of every model come last
    table = [[name, *(cells.get(name) for cells in columns.values())] for name in order]
    print_table(table, ["", *columns], title=title)


def _column(scores: "Scores") -> dict[str, str]:
    """The numbers of a model by their names."""
    intervals = scores.get("intervals", {})
    values: Mapping[str, Any] = scores
    return {
        **_cells(scores["metrics"], intervals),
        **_cells(scores.get("agreement", {}), intervals),
        **{name: cell(values[field]) for name, field, cell in _SIZES if field in values},
    }


def format_number(value: float | None) -> str:
    """A number with four decimals, or fewer if it is large.

    Examples:
        >>> format_number(0.87), format_number(-0.01), format_number(123.456), format_number(None)
        ('0.8700', '-0.0100', '123.46', '-')
    """
    if value is None:
        return "-"
    digits = len(str(int(min(abs(value), 1e15)))) - 1
    return f"{value:,.{max(4 - digits, 0)}f}"


def _cells(
    values: Mapping[str, float | None], intervals: Mapping[str, Sequence[float | None]]
) -> dict[str, str]:
    """Numbers with their intervals, by name."""

    def cell(name: str) -> str:
        low, high = intervals.get(name, (None, None))
        number = format_number(values[name])
        if low is None or high is None:
            return number
        return f"{number} [{format_number(low)}, {format_number(high)}]"

    return {name: cell(name) for name in values}


def _latency(milliseconds: dict[str, float]) -> str:
    """Both percentiles with two digits after the point of the smaller one, at most.

    Examples:
        >>> _latency({"p50": 1.234, "p95": 12.3}), _latency({"p50": 123.4, "p95": 150.0})
        ('1.23, 12.30 ms', '123, 150 ms')
    """
    low, high = milliseconds["p50"], milliseconds["p95"]
    digits = max(2 - int(math.log10(max(low, 1))), 0)
    return f"{low:.{digits}f}, {high:.{digits}f} ms"


def _selection(name: str, choice: Mapping[str, Any]) -> str:
    """What the threshold of selective prediction promises, in two sentences."""
    rate, level = f"{choice['rate']:.4g}", f"{100 * choice['level']:g} % confidence"
    if not choice["kept"]:
        return (
            f"No threshold of confidence keeps an agreement of {rate} with the teacher ({level}): "
            "all texts should go to the teacher."
        )
    return (
        f"Above a confidence of {choice['threshold']:.4f} the {name} agrees with the teacher on at "
        f"least {choice['bound']:.4f} of the texts ({level}; {choice['agreement']:.4f} of "
        f"{choice['kept']:,} here; asked: {rate}). The share below it is "
        f"{choice['share_below']:.4f}: these texts should go to the teacher."
    )


def _print_details(name: str, details: dict[str, dict[str, float | None]]) -> None:
    metrics: Sequence[str] = list(next(iter(details.values())))
    cells = [
        [kind, *(_detail(values[metric]) for metric in metrics)] for kind, values in details.items()
    ]
    print_line("")
    print_table(cells, [name, *metrics], numbers=range(1, len(metrics) + 1))


def _detail(value: float | None) -> str:
    """A share, or a count, which is a whole number."""
    is_count = value is not None and value > 1 and float(value).is_integer()
    return f"{value:,.0f}" if is_count else format_number(value)
