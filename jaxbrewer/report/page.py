"""Assembles the page: its sections, and the curves and settings of each run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..run.results import SHOWN_ROLES
from ..study.results import StudyResults
from .html import STYLE, charts, table
from .records import RunRecord, differing_settings, is_term
from .results import results_section
from .study import study_section
from .svg import Line, escape, layer_map, line_chart

_OPTIMIZER = ("learning_rate", "grad_norm", "temperature")
_SPEED = ("examples_per_second", "steps_per_second", "waiting")


def report_page(
    runs: Sequence[RunRecord], studies: Mapping[str, StudyResults], *, title: str
) -> str:
    """The page about one or several runs and studies, as one HTML document that loads nothing.

    Args:
        runs: The runs.
        studies: The studies by name.
        title: Its title.
    """
    sections = [section for section in _sections(runs, studies) if section[2]]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(name)}</h2>{content}</section>'
        for key, name, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{_summary(runs)}<nav>{links}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def _sections(
    runs: Sequence[RunRecord], studies: Mapping[str, StudyResults]
) -> Iterator[tuple[str, str, str]]:
    for number, (name, study) in enumerate(studies.items()):
        yield f"study{number}", f"Study {name}", study_section(study)
    yield "results", "Results", results_section(runs)
    if len(runs) > 1:
        yield "compared", "Compared", _compared(runs)
        yield "differences", "Settings that differ", _differences(runs)
    for number, run in enumerate(runs):
        yield f"run{number}", f"Run {run.name}", _run(run)
    yield "settings", "Settings", "".join(map(_settings, runs))


def _summary(runs: Sequence[RunRecord]) -> str:
    """When, where and with what the runs were made; empty without any."""
    if not runs:
        return ""
    rows = []
    for run in runs:
        manifest = run.manifest
        program, *words = manifest.get("command") or ["?"]
        command = " ".join([program.rsplit("/", 1)[-1], *words])
        steps = f"{run.last_step:,} of {manifest.get('total_steps', 0):,}"
        sizes = ", ".join(
            f"{SHOWN_ROLES.get(who, who)} {n:,}"
            for who, n in manifest.get("parameters", {}).items()
        )
        rows.append(
            [
                run.name,
                manifest.get("started", "?")[:19].replace("T", " "),
                steps,
                sizes,
                ", ".join(manifest.get("devices", [])[:4]),
                f"jaxbrewer {manifest.get('jaxbrewer', '?')}, jax {manifest.get('jax', '?')}",
                command,
            ]
        )
    header = ["run", "started", "steps", "parameters", "devices", "versions", "command"]
    return table(header, rows)


def _run(run: RunRecord) -> str:
    parts = []
    terms = sorted({name.partition("_")[2] for name in run.metrics if is_term(name)})
    drawn = [_chart(run, "total loss", [("total_loss", "total")])]
    for term in terms:
        lines = [(f"unweighted_{term}", "raw"), (f"weighted_{term}", "weighted")]
        drawn.append(_chart(run, term.replace("_", " "), lines))
    parts.append(charts("Terms of the loss", drawn))
    parts.append(charts("Optimizer", [_chart(run, name, [(name, name)]) for name in _OPTIMIZER]))
    known = {"total_loss", *_OPTIMIZER, *_SPEED}
    others = [
        name
        for name in run.metrics
        if name not in known and not is_term(name) and not name.startswith("count_")
    ]
    parts.append(charts("Other metrics", [_chart(run, name, [(name, name)]) for name in others]))
    parts.append(charts("Speed", [_chart(run, name, [(name, name)]) for name in _SPEED]))
    parts.append(_layers(run))
    parts.append(_links(run))
    return "".join(parts)


def _chart(run: RunRecord, title: str, names: Sequence[tuple[str, str]]) -> str:
    """A chart of some of a run's metrics; empty if it has none of them."""
    lines = [
        Line(label, run.metrics[name], color)
        for color, (name, label) in enumerate(names)
        if name in run.metrics
    ]
    if len(lines) == 2 and np.array_equal(lines[0].points, lines[1].points, equal_nan=True):
        lines = [lines[0]._replace(label="raw and weighted")]
    return line_chart(title.replace("_", " "), lines) if lines else ""


def _compared(runs: Sequence[RunRecord]) -> str:
    """The curves that at least two runs have, one line per run."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    first = [name for name in ("total_loss", *_OPTIMIZER) if name in names]
    chosen = [
        *first,
        *(name for name in names if name.startswith(("unweighted_", "validation"))),
    ]
    drawn = []
    for name in chosen:
        lines = [
            Line(run.name, run.metrics[name], number % 6)
            for number, run in enumerate(runs)
            if name in run.metrics
        ]
        if len(lines) > 1:
            drawn.append(line_chart(name.removeprefix("unweighted_").replace("_", " "), lines))
    return charts("", drawn)


def _layers(run: RunRecord) -> str:
    """The layer map of the matches that join one layer to one layer."""
    pairs = [
        (str(match.get("feature", "?")), int(match["layer_T"]), int(match["layer_S"]))
        for match in run.matches
        if all(_is_layer(match.get(name)) for name in ("layer_T", "layer_S"))
    ]
    if not pairs:
        return ""
    teacher = max(1, *(of_teacher for _, of_teacher, _ in pairs))
    student = max(run.student_layers or 1, *(of_student for _, _, of_student in pairs))
    return charts("Matches", [layer_map(pairs, teacher, student)])


def _is_layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1000


def _links(run: RunRecord) -> str:
    names = [
        "manifest.json",
        "config.json",
        "metrics.jsonl",
        "results.json",
        "model",
        "checkpoints",
    ]
    place = run.directory.absolute()
    links = [
        f'<a href="{escape((place / name).as_uri())}">{name}</a>'
        for name in names
        if (place / name).exists()
    ]
    return f'<p class="note">In {escape(run.directory)}: {", ".join(links)}</p>'


def _differences(runs: Sequence[RunRecord]) -> str:
    differing = differing_settings(runs)
    if not differing:
        return '<p class="empty">All settings are the same.</p>'
    rows = [[name, *values] for name, values in differing.items()]
    return table(["setting", *(run.name for run in runs)], rows)


def _settings(run: RunRecord) -> str:
    rows = [[name, str(value)] for name, value in run.settings.items() if value is not None]
    listed = table(["setting", "value"], rows)
    return f"<details><summary>{escape(run.name)}</summary>{listed}</details>"
