"""A study: its table, the differences from labels alone as intervals, the learning curve."""

from collections.abc import Sequence

import numpy as np

from ..study.results import ArmResult, StudyResults
from .html import charts, raw_table
from .svg import Line, escape, interval_bar, line_chart


def study_section(study: StudyResults) -> str:
    """The table of a study, with its intervals drawn, and its learning curve."""
    main, arms = study["main_metric"], study["arms"]
    changes = [arm["differences"].get(main) for arm in arms.values()]
    ends = [
        end
        for change in changes
        if change is not None
        for end in (change["low"], change["high"])
        if end is not None
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    rows = [_row(arm, main, (low, high)) for arm in arms.values()]
    header = ["", main, "minus labels alone", "95 % interval", "p", "gap closed", ""]
    direction = "larger" if study["larger_is_better"] else "smaller"
    note = (
        f'<p class="note">{study["seeds"]} seeds of each arm; {escape(main)}: {direction} is '
        "better. The intervals hold the chance of the test examples and of the seeds.</p>"
    )
    return note + raw_table(header, rows) + charts("", _learning_curve(study))


def _row(arm: ArmResult, main: str, ends: tuple[float, float]) -> list[str]:
    deviation, change, gap = (
        arm["deviations"].get(main),
        arm["differences"][main],
        arm["gap_closed"],
    )
    spread = "" if deviation is None else f" ± {deviation:.4f}"
    row = [escape(arm["title"]), f"{arm['metrics'][main]:.4f}{spread}"]
    value, low, high = change["value"], change["low"], change["high"]
    if value is None or low is None or high is None or low == high == 0:
        return [*row, "", "", "", "", ""]
    share = gap["value"]
    return [
        *row,
        f"{value:+.4f} [{low:+.4f}, {high:+.4f}]",
        interval_bar(value, low, high, ends),
        f"{arm['p_value']:.3f}",
        "" if share is None else f"{share:.0%}",
        escape(arm["verdict"]),
    ]


def _learning_curve(study: StudyResults) -> Sequence[str]:
    """The main metric against the number of labels; empty without arms of fewer labels."""
    main = study["main_metric"]
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, arm in study["arms"].items():
        if arm["labels"] is not None:
            kind = name.removesuffix(f"-{arm['labels']}-labels")
            curves.setdefault(kind, []).append((arm["labels"], arm["metrics"][main]))
    lines = [
        Line(kind, np.array(sorted(points), float).T, number % 6)
        for number, (kind, points) in enumerate(curves.items())
    ]
    return [line_chart(f"{main} by the number of labels", lines, x_label="labels")] if lines else []
