"""The results of runs: their scores, confusion and reliability, quality against cost."""

from collections.abc import Sequence

import numpy as np

from ..run.results import Results, Scores
from .html import charts, table
from .records import RunRecord
from .svg import Point, matrix, reliability, scatter

_MOST_CLASSES = 30
"""Classes of a confusion matrix that fit a chart."""


def results_section(runs: Sequence[RunRecord]) -> str:
    """Tables and charts of the results; empty without any."""
    found = [(run, run.results) for run in runs if run.results is not None]
    rows = _rows(found)
    if not rows:
        return ""
    metrics = list(dict.fromkeys(name for _, scores in rows for name in scores["metrics"]))
    header = ["model", *metrics, "parameters", "MB", "examples/s"]
    lines = [[name, *_cells(scores, metrics)] for name, scores in rows]
    main = found[0][1]["main_metric"]
    direction = "larger" if found[0][1]["larger_is_better"] else "smaller"
    note = f'<p class="note">{main} leads ({direction} is better); in brackets: 95 % intervals.</p>'
    return "".join(
        [
            note,
            table(header, lines, numbers=range(1, len(header))),
            charts("Quality against cost", _costs(rows, main)),
            charts("Confusion and reliability", _diagrams(rows)),
        ]
    )


def _rows(found: Sequence[tuple[RunRecord, Results]]) -> list[tuple[str, Scores]]:
    """The scored models, each directory once; the run's name where several runs have the row."""
    rows: dict[str, tuple[str, Scores]] = {}
    for run, results in found:
        for role, scores in results["rows"].items():
            if scores["metrics"]:
                name = role if len(found) == 1 else f"{role} of {run.name}"
                rows.setdefault(scores.get("model", name), (name, scores))
    return list(rows.values())


def _cells(scores: Scores, metrics: Sequence[str]) -> list[str]:
    intervals = scores.get("intervals", {})

    def cell(name: str) -> str:
        value = scores["metrics"].get(name)
        low, high = (*intervals.get(name, ()), None, None)[:2]
        bounds = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        return "" if value is None else f"{value:.4f}{bounds}"

    size, speed = scores.get("bytes"), scores.get("examples_per_second")
    return [
        *map(cell, metrics),
        f"{scores['parameters']:,}" if "parameters" in scores else "",
        "" if size is None else f"{size / 1e6:.1f}",
        "" if speed is None else f"{speed:,.0f}",
    ]


def _costs(rows: Sequence[tuple[str, Scores]], main: str) -> list[str]:
    """The main metric against the size and against the speed of each model."""
    costs = (("bytes", 1e6, "MB"), ("examples_per_second", 1, "examples/s"))
    drawn = []
    for key, unit, label in costs:
        points = [
            Point(name, float(cost) / unit, value)
            for name, scores in rows
            if isinstance(cost := scores.get(key), (int, float))
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
