"""The table of an evaluation: a row for each number, a column for each model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .output import format_bytes, print_line, print_table

if TYPE_CHECKING:
    from ..text.evaluation import Evaluation

_DIFFERENCE = "{} - teacher"


def print_evaluation(evaluation: "Evaluation", *, file: str) -> None:
    """Prints the scores of all models.

    Args:
        evaluation: The scores.
        file: The file with the examples.
    """
    rows = evaluation["rows"]
    compared = [name for name, scores in rows.items() if "difference" in scores]
    names = [name for scores in rows.values() for name in scores["metrics"]]
    table = [
        [
            metric,
            *(_with_interval(scores, "metrics", "intervals", metric) for scores in rows.values()),
            *(
                _with_interval(rows[name], "difference", "difference_intervals", metric)
                for name in compared
            ),
        ]
        for metric in dict.fromkeys(names)
    ]
    agreements = [name for scores in rows.values() for name in scores.get("agreement", ())]
    blank = [None] * len(compared)
    for metric in dict.fromkeys(agreements):
        cells = [
            _with_interval(scores, "agreement", "intervals", metric) for scores in rows.values()
        ]
        table.append([metric, *cells, *blank])
    sizes: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("parameters", "parameters", "{:,}".format),
        ("size", "bytes", format_bytes),
        ("latency p50, p95", "latency_ms", _latency),
        ("texts/s", "examples_per_second", "{:,.0f}".format),
    )
    for name, field, cell in sizes:
        found = [scores.get(field) for scores in rows.values()]
        table.append([name, *(None if value is None else cell(value) for value in found), *blank])
    header = ["", *rows, *(_DIFFERENCE.format(name) for name in compared)]
    title = f"{evaluation['examples']:,} texts of {file}, on {evaluation['device']}"
    print_table(table, header, title=title)
    for name, scores in rows.items():
        if scores.get("cut"):
            who = "" if len(rows) == 1 else f" for the {name}"
            print_line(f"{scores['cut']:,} texts were cut to the maximum length{who}.")
        if "selective" in scores:
            print_line(_selection(name, scores["selective"]))
        if scores.get("details"):
            _print_details(name, scores["details"])


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


def _with_interval(scores: Any, field: str, intervals: str, metric: str) -> str | None:
    if metric not in scores.get(field, ()):
        return None
    value, ends = scores[field][metric], scores[intervals].get(metric, [None, None])
    if value is None or None in ends:
        return format_number(value)
    return f"{format_number(value)} [{format_number(ends[0])}, {format_number(ends[1])}]"


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
