"""The results of runs: their scores, confusion and reliability, quality against cost."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..run.results import Gain, Intervals, Numbers, Results, Scores
from ..text.gain import describe_gain
from .html import charts, table
from .records import RunRecord
from .svg import Point, escape, matrix, reliability, scatter

_MOST_CLASSES = 30
"""Classes of a confusion matrix that fit a chart."""


def results_section(runs: Sequence[RunRecord]) -> str:
    """Tables and charts of the results; empty without any."""
    found = [(run, run.results) for run in runs if run.results is not None]
    rows = _rows(found)
    if not rows:
        return ""
    main = found[0][1]["main_metric"]
    direction = "larger" if found[0][1]["larger_is_better"] else "smaller"
    note = f'<p class="note">{main} leads ({direction} is better); in brackets: 95 % intervals.</p>'
    return "".join(
        [
            note,
            *map(_linear_baseline, found),
            *(_gain(name, scores, main) for name, scores in rows if "gain" in scores),
            _scores("metrics", "intervals", rows),
            _scores("difference", "difference_intervals", rows, "Difference from the teacher"),
            _scores(
                "difference",
                "difference_intervals",
                [(name, scores["gain"]) for name, scores in rows if "gain" in scores],
                "Difference from labels alone",
            ),
            _scores("agreement", "intervals", rows, "Agreement with the teacher"),
            _cost_table(rows),
            charts("Quality against cost", _cost_charts(rows, main)),
            charts("Confusion and reliability", _diagrams(rows)),
        ]
    )


def _linear_baseline(found: tuple[RunRecord, Results]) -> str:
    """How the teacher of a run compares with a linear model; empty where that was not checked."""
    run, results = found
    check, main = results.get("linear_baseline"), results["main_metric"]
    if check is None:
        return ""
    one, other = check["teacher"].get(main), check["linear"].get(main)
    worse = "worse" if check["is_teacher_worse"] else "not worse"
    return (
        f'<p class="note">{escape(run.name)}: the teacher is {worse} than a linear model on words '
        f"({escape(main)} {_number(one)} and {_number(other)} on {check['examples']:,} texts of "
        f"{escape(check['path'])}).</p>"
    )


def _gain(name: str, scores: Scores, main: str) -> str:
    """Whether a student is better than the same one on labels alone."""
    sentence = describe_gain(scores["gain"], main)
    return f'<p class="note">{escape(name)}: {escape(sentence)}</p>'


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _rows(found: Sequence[tuple[RunRecord, Results]]) -> list[tuple[str, Scores]]:
    """The scored models, each directory once; with the run's name where roles are not enough."""
    rows: dict[str, tuple[str, RunRecord, Scores]] = {}
    for run, results in found:
        for role, scores in results["rows"].items():
            if scores["metrics"]:
                rows.setdefault(scores.get("model", f"{role}/{run.name}"), (role, run, scores))
    count = Counter(role for role, _, _ in rows.values())
    return [
        (role if count[role] == 1 else f"{role} of {run.name}", scores)
        for role, run, scores in rows.values()
    ]


def _scores(
    values: str, intervals: str, rows: Sequence[tuple[str, Scores | Gain]], title: str = ""
) -> str:
    """A table of the numbers under one key of the scores, with their intervals; empty without."""
    chosen: list[tuple[str, Numbers, Intervals]] = []
    for name, scores in rows:
        found: Any = scores
        if found.get(values):
            chosen.append((name, found[values], found.get(intervals, {})))
    names = list(dict.fromkeys(name for _, numbers, _ in chosen for name in numbers))
    if not names:
        return ""

    def cell(name: str, numbers: Numbers, bounds: Intervals) -> str:
        value = numbers.get(name)
        low, high = (*bounds.get(name, ()), None, None)[:2]
        shown = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        return "" if value is None else f"{value:.4f}{shown}"

    lines = [
        [row, *(cell(name, numbers, bounds) for name in names)] for row, numbers, bounds in chosen
    ]
    heading = f"<h3>{title}</h3>" if title else ""
    header = ["model", *(name.replace("_", " ") for name in names)]
    return heading + table(header, lines, numbers=range(1, len(header)))


def _costs(scores: Scores) -> dict[str, float]:
    """What a model costs, by the name of the measure."""
    found = {
        "parameters": scores.get("parameters"),
        "MB": scores["bytes"] / 1e6 if "bytes" in scores else None,
        "ms at batch 1 (p50)": scores.get("latency_ms", {}).get("p50"),
        "ms at batch 1 (p95)": scores.get("latency_ms", {}).get("p95"),
        "examples/s": scores.get("examples_per_second"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _cost_table(rows: Sequence[tuple[str, Scores]]) -> str:
    costs = {name: _costs(scores) for name, scores in rows}
    names = list(dict.fromkeys(measure for found in costs.values() for measure in found))
    lines = [
        [row, *(_shown(found[name]) if name in found else "" for name in names)]
        for row, found in costs.items()
    ]
    header = ["model", *names]
    return f"<h3>Cost</h3>{table(header, lines, numbers=range(1, len(header)))}" if names else ""


def _shown(value: float) -> str:
    """A number with four digits, without an exponent where it is large.

    Examples:
        >>> _shown(22713216), _shown(0.43861)
        ('22,713,216', '0.4386')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _cost_charts(rows: Sequence[tuple[str, Scores]], main: str) -> list[str]:
    """The main metric against the size, the latency and the speed of each model."""
    drawn = []
    for label in ("MB", "ms at batch 1 (p50)", "examples/s"):
        points = [
            Point(name, costs[label], value)
            for name, scores in rows
            if label in (costs := _costs(scores))
            and (value := scores["metrics"].get(main)) is not None
        ]
        if len(points) > 1:
            drawn.append(scatter(f"{main} against {label}", points, x_label=label, y_label=main))
    return drawn


def _diagrams(rows: Sequence[tuple[str, Scores]]) -> list[str]:
    drawn = []
    for name, scores in rows:
        diagrams = scores.get("diagrams", {})
        confusion, calibration = diagrams.get("confusion"), diagrams.get("calibration")
        if confusion and len(confusion["names"]) <= _MOST_CLASSES:
            counts = np.array(confusion["counts"], float)
            drawn.append(matrix(f"{name}: labels and predictions", counts, confusion["names"]))
        if calibration:
            drawn.append(reliability(f"{name}: reliability", **calibration))
    return drawn
