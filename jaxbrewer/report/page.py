"""Assembles the page: styles, sections and tables around the charts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .records import RunRecord, differing_settings, is_term
from .svg import Line, escape, layer_map, line_chart

_OPTIMIZER = ("learning_rate", "grad_norm", "temperature")
_SPEED = ("examples_per_second", "steps_per_second", "waiting")

STYLE = (
    """
:root { color-scheme: light dark; --back: #ffffff; --panel: #f6f7f9; --text: #1b1f24;
  --soft: #57606a; --rule: #d8dee4; --c0: #2463c9; --c1: #c2410c; --c2: #15803d; --c3: #7e3fb2;
  --c4: #a16207; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --panel: #1d2126; --text: #e6e9ec;
  --soft: #9aa4ae; --rule: #363c43; --c0: #6ea8ff; --c1: #ff9a5c; --c2: #5fd08a; --c3: #c79bf2;
  --c4: #e5c05a; --c5: #5cc8dc; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 16px 64px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px;
  padding-bottom: 4px; border-bottom: 1px solid var(--rule); } h3 { font-size: 16px;
  margin: 24px 0 8px; }
p.note { color: var(--soft); margin: 0 0 12px; } a { color: var(--c0); }
nav a { margin-right: 14px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--soft); } td.number, th.number { text-align: right; }
td code { overflow-wrap: anywhere; }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(340px,
  100%), 1fr)); }
figure { margin: 0; padding: 12px; background: var(--panel); border-radius: 8px;
  break-inside: avoid; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 6px; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg text.axis { fill: var(--text); } svg .grid { stroke: var(--rule); }
svg .guide { stroke: var(--soft); stroke-dasharray: 4 4; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .band { opacity: .16; stroke: none; } svg .box { fill: var(--back); stroke: var(--rule); }
svg .heat { fill: color-mix(in srgb, var(--c0) calc(var(--share) * 100%), var(--back)); }
svg text.cell.light { fill: var(--back); } svg text.cell.dark { fill: var(--text); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 6px 0 0;
  padding: 0; color: var(--soft); font-size: 13px; }
ul.legend li { overflow-wrap: anywhere; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
p.empty { color: var(--soft); }
"""
    + "".join(
        f"svg .stroke{n} {{ stroke: var(--c{n}); }} svg .fill{n} {{ fill: var(--c{n}); }} "
        f".back{n} {{ background: var(--c{n}); }}\n"
        for n in range(6)
    )
    + """
@media print { body { max-width: none; padding: 0; } nav { display: none; }
  .charts { grid-template-columns: 1fr 1fr; } figure { border: 1px solid var(--rule); }
  h2, h3 { break-after: avoid; } }
"""
)


def report_page(runs: Sequence[RunRecord], *, title: str) -> str:
    """The page about one or several runs, as one HTML document that loads nothing.

    Args:
        runs: The runs.
        title: Its title.
    """
    sections = [section for section in _sections(runs) if section[2]]
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


def _sections(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str, str]]:
    from .results import results_section

    yield "results", "Results", results_section(runs)
    if len(runs) > 1:
        yield "compared", "Compared", _compared(runs)
        yield "differences", "Settings that differ", _differences(runs)
    for number, run in enumerate(runs):
        yield f"run{number}", f"Run {run.name}", _run(run)
    yield "settings", "Settings", "".join(map(_settings, runs))


def _summary(runs: Sequence[RunRecord]) -> str:
    rows = []
    for run in runs:
        manifest = run.manifest
        program, *words = manifest.get("command") or ["?"]
        command = " ".join([program.rsplit("/", 1)[-1], *words])
        steps = f"{run.last_step:,} of {manifest.get('total_steps', 0):,}"
        sizes = ", ".join(f"{who} {n:,}" for who, n in manifest.get("parameters", {}).items())
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
    charts = [_chart(run, "total loss", [("total_loss", "total")])]
    for term in terms:
        lines = [(f"unweighted_{term}", "raw"), (f"weighted_{term}", "weighted")]
        charts.append(_chart(run, term.replace("_", " "), lines))
    parts.append(_charts("Terms of the loss", charts))
    parts.append(_charts("Optimizer", [_chart(run, name, [(name, name)]) for name in _OPTIMIZER]))
    known = {"total_loss", *_OPTIMIZER, *_SPEED}
    others = [
        name
        for name in run.metrics
        if name not in known and not is_term(name) and not name.startswith("count_")
    ]
    parts.append(_charts("Other metrics", [_chart(run, name, [(name, name)]) for name in others]))
    parts.append(_charts("Speed", [_chart(run, name, [(name, name)]) for name in _SPEED]))
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
    charts = []
    for name in chosen:
        lines = [
            Line(run.name, run.metrics[name], number % 6)
            for number, run in enumerate(runs)
            if name in run.metrics
        ]
        if len(lines) > 1:
            charts.append(line_chart(name.removeprefix("unweighted_").replace("_", " "), lines))
    return _charts("", charts)


def _charts(title: str, charts: Sequence[str]) -> str:
    drawn = "".join(charts)
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'{heading}<div class="charts">{drawn}</div>' if drawn else ""


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
    return _charts("Matches", [layer_map(pairs, teacher, student)])


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


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[int] = ()
) -> str:
    """An HTML table; ``numbers`` are the columns to align at the right."""

    def cell(tag: str, column: int, value: Any) -> str:
        kind = ' class="number"' if column in numbers else ""
        return f"<{tag}{kind}>{escape(value)}</{tag}>"

    head = "".join(cell("th", column, name) for column, name in enumerate(header))
    lines = ("".join(cell("td", column, value) for column, value in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
