"""The style of the page, and its tables and groups of charts."""

from collections.abc import Sequence
from typing import Any

from .svg import escape

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
svg.bar { width: 160px; min-width: 160px; height: 18px; display: inline-block; }
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
  .wide { overflow: visible; } th, td { overflow-wrap: anywhere; padding-right: 8px; }
  h2, h3 { break-after: avoid; } tr { break-inside: avoid; } }
"""
)


def charts(title: str, figures: Sequence[str]) -> str:
    """Figures beside each other, under a heading if there is a title; empty without any."""
    drawn = "".join(figures)
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'{heading}<div class="charts">{drawn}</div>' if drawn else ""


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[int] = ()
) -> str:
    """An HTML table of text; ``numbers`` are the columns to align at the right."""
    cells = [[escape(value) for value in row] for row in rows]
    return raw_table(list(map(escape, header)), cells, numbers=numbers)


def raw_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()
) -> str:
    """An HTML table whose cells are HTML."""

    def cell(tag: str, column: int, value: str) -> str:
        kind = ' class="number"' if column in numbers else ""
        return f"<{tag}{kind}>{value}</{tag}>"

    head = "".join(cell("th", column, name) for column, name in enumerate(header))
    lines = ("".join(cell("td", column, value) for column, value in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
