"""Charts as inline SVG. Colors come from the page's CSS, so that they follow its theme."""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 10, 36
_MOST_POINTS = 240
"""Points of a line; a longer curve is drawn by the means of as many bins, with its range."""


class Line(NamedTuple):
    """A curve of a chart.

    Attributes:
        label: Its name in the legend.
        points: Steps and values.
        color: Number of its color in the page's palette.
    """

    label: str
    points: Float[np.ndarray, "2 points"]
    color: int


class Point(NamedTuple):
    """A point of a scatter plot, marked with its number."""

    label: str
    x: float
    y: float


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that span ``low`` to ``high``.

    Examples:
        >>> nice_ticks(0.13, 0.94)
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> nice_ticks(3, 3)
        [2.0, 2.5, 3.0, 3.5, 4.0]
    """
    if not high > low:
        low, high = low - 1, high + 1
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def line_chart(title: str, lines: Sequence[Line], *, x_label: str = "step") -> str:
    """A chart of curves with a legend; values that are not finite leave gaps."""
    finite = [line.points[:, np.isfinite(line.points[1])] for line in lines]
    xs = np.concatenate([points[0] for points in finite] or [np.zeros(0)])
    ys = np.concatenate([points[1] for points in finite] or [np.zeros(0)])
    if not len(xs):
        return _figure(title, '<p class="empty">No finite values.</p>', [])
    frame = _Frame.around(xs, ys)
    parts = [frame.axes(x_label)]
    for line in lines:
        parts += [_curve(frame, *_binned(line.points), line.color)]
    legend = [(line.label, line.color) for line in lines] if len(lines) > 1 else []
    return _figure(title, _svg(title, parts), legend)


def scatter(title: str, points: Sequence[Point], *, x_label: str, y_label: str) -> str:
    """A scatter plot whose points carry numbers; the legend names them."""
    xs, ys = (np.array([getattr(point, axis) for point in points]) for axis in "xy")
    margin = 0.08 * (xs.max() - xs.min())
    frame = _Frame.around(np.append(xs, [xs.min() - margin, xs.max() + margin]), ys)
    parts = [frame.axes(x_label, y_label)]
    for number, point in enumerate(points):
        x, y = frame.place(point.x, point.y)
        parts.append(
            f'<circle class="fill{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="6">'
            f"<title>{escape(point.label)}: {point.x:.4g}, {point.y:.4g}</title></circle>"
        )
    return _figure(
        title, _svg(title, parts), [(point.label, n % 6) for n, point in enumerate(points)]
    )


def matrix(title: str, counts: Float[np.ndarray, "labels labels"], names: Sequence[str]) -> str:
    """A confusion matrix: a row per label, shaded by the share of the row."""
    size = len(names)
    cell, left, top = max(min(240 // size, 44), 12), 104, 24
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [f'<text class="axis" x="{left}" y="14">predicted</text>']
    for row in range(size):
        y = top + row * cell
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 6}" y="{y + cell / 2 + 4:.1f}">'
            f"{escape(_short(names[row], 15))}</text>"
        )
        for column in range(size):
            x, share = left + column * cell, float(shares[row, column])
            text = f"{names[row]} as {names[column]}: {counts[row, column]:g} ({share:.0%})"
            parts.append(
                f'<rect class="heat" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'style="--share:{share:.3f}"><title>{escape(text)}</title></rect>'
            )
            if cell >= 28:
                shade = "light" if share > 0.55 else "dark"
                parts.append(
                    f'<text class="cell {shade}" text-anchor="middle" x="{x + cell / 2:.1f}" '
                    f'y="{y + cell / 2 + 4:.1f}">{counts[row, column]:g}</text>'
                )
    width, height = left + size * cell + 8, top + size * cell + 8
    return _figure(title, _svg(title, parts, width, height), [])


def reliability(
    title: str, confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[float]
) -> str:
    """A reliability diagram: the accuracy of predictions by their confidence.

    Args:
        title: The title.
        confidence: Mean confidence of each bin.
        accuracy: Accuracy of each bin.
        count: Number of predictions in each bin; empty bins are left out.
    """
    frame = _Frame((0.0, 1.0), (0.0, 1.0))
    parts = [frame.axes("confidence", "accuracy")]
    start, end = frame.place(0, 0), frame.place(1, 1)
    parts.append(
        f'<line class="guide" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" '
        f'y2="{end[1]:.1f}"/>'
    )
    total = max(sum(count), 1)
    for mean, share, number in zip(confidence, accuracy, count, strict=True):
        if number:
            x, y = frame.place(mean, share)
            radius = 3 + 9 * math.sqrt(number / total)
            parts.append(
                f'<circle class="fill0" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>'
                f"confidence {mean:.3f}, accuracy {share:.3f}, {number:g} predictions"
                "</title></circle>"
            )
    return _figure(title, _svg(title, parts), [])


def layer_map(
    matches: Sequence[tuple[str, int, int]], teacher_layers: int, student_layers: int
) -> str:
    """Two columns of layers, joined by the matches ``(feature, teacher's layer, student's)``."""
    step, width, left, right = 26, 84, 30, 246
    tallest = max(teacher_layers, student_layers) + 1
    height = tallest * step + 34
    colors = {feature: n % 6 for n, feature in enumerate(dict.fromkeys(m[0] for m in matches))}

    def middle(layer: int, layers: int) -> float:
        gap = step * (tallest - 1) / max(layers, 1)
        return height - 16 - layer * gap

    parts = []
    for feature, of_teacher, of_student in matches:
        parts.append(
            f'<line class="stroke{colors[feature]}" stroke-width="2" x1="{left + width}" '
            f'y1="{middle(of_teacher, teacher_layers):.1f}" x2="{right}" '
            f'y2="{middle(of_student, student_layers):.1f}"><title>{escape(feature)}: student '
            f"{of_student}, teacher {of_teacher}</title></line>"
        )
    for x, layers, who in ((left, teacher_layers, "teacher"), (right, student_layers, "student")):
        parts.append(
            f'<text class="axis" text-anchor="middle" x="{x + width / 2}" y="12">{who}</text>'
        )
        for layer in range(layers + 1):
            y = middle(layer, layers)
            parts.append(
                f'<rect class="box" rx="4" x="{x}" y="{y - 9:.1f}" width="{width}" height="18"/>'
                f'<text class="tick" text-anchor="middle" x="{x + width / 2}" y="{y + 4:.1f}">'
                f"{'embeddings' if layer == 0 else f'layer {layer}'}</text>"
            )
    return _figure("Layer map", _svg("Layer map", parts, WIDTH, height), list(colors.items()))


def interval_bar(value: float, low: float, high: float, ends: tuple[float, float]) -> str:
    """A small picture of an interval, with a mark at 0, on a scale that rows of a table share."""
    start, end = ends
    scale = 150 / (end - start if end > start else 1)

    def place(x: float) -> float:
        return 5 + (x - start) * scale

    return (
        '<svg class="bar" viewBox="0 0 160 18" role="img" '
        f'aria-label="{value:.4g} between {low:.4g} and {high:.4g}">'
        f'<line class="guide" x1="{place(0):.1f}" y1="0" x2="{place(0):.1f}" y2="18"/>'
        f'<line class="stroke0" stroke-width="2" x1="{place(low):.1f}" y1="9" '
        f'x2="{place(high):.1f}" y2="9"/>'
        f'<circle class="fill0" cx="{place(value):.1f}" cy="9" r="4"/></svg>'
    )


def escape(value: Any) -> str:
    """Text for HTML, in content and in attributes."""
    return html.escape(str(value), quote=True)


class _Frame(NamedTuple):
    """The ranges of the two axes."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, xs: np.ndarray, ys: np.ndarray) -> "_Frame":
        ticks, (left, right) = nice_ticks(ys.min(), ys.max()), (xs.min(), xs.max())
        return cls((left, right) if right > left else (left - 1, left + 1), (ticks[0], ticks[-1]))

    def place(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        return (
            _LEFT + (x - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - _TOP - _BOTTOM),
        )

    def axes(self, x_label: str, y_label: str = "") -> str:
        parts = []
        for tick in nice_ticks(*self.y):
            _, y = self.place(self.x[0], tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>'
                f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.1f}">'
                f"{_number(tick)}</text>"
            )
        ticks = [tick for tick in nice_ticks(*self.x) if self.x[0] <= tick <= self.x[1]]
        for tick in ticks:
            x, _ = self.place(tick, self.y[0])
            anchor = "end" if x > WIDTH - 28 else "middle"
            parts.append(
                f'<text class="tick" text-anchor="{anchor}" x="{x:.1f}" '
                f'y="{HEIGHT - _BOTTOM + 15}">{_number(tick)}</text>'
            )
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        label = f"{x_label} (across), {y_label} (up)" if y_label else x_label
        parts.append(
            f'<text class="axis" text-anchor="middle" x="{middle}" y="{HEIGHT - 3}">'
            f"{escape(label)}</text>"
        )
        return "".join(parts)


def _binned(points: Float[np.ndarray, "2 points"]) -> tuple[np.ndarray, np.ndarray]:
    """Means of bins of a long curve, and their ranges ``[3, bins]``: step, lowest, highest."""
    if points.shape[1] <= _MOST_POINTS:
        return points, np.zeros((3, 0))
    bins = np.array_split(points, _MOST_POINTS, axis=1)
    means = np.array([part.mean(axis=1) for part in bins]).T
    ranges = np.array([(part[0].mean(), part[1].min(), part[1].max()) for part in bins]).T
    return means, ranges


def _curve(frame: _Frame, points: np.ndarray, ranges: np.ndarray, color: int) -> str:
    parts = []
    if ranges.shape[1] and np.isfinite(ranges).all():
        up = [frame.place(x, high) for x, _, high in ranges.T]
        down = [frame.place(x, low) for x, low, _ in ranges.T[::-1]]
        outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*up, *down])
        parts.append(f'<polygon class="band fill{color}" points="{outline}"/>')
    pen, path = "M", []
    for x, y in points.T:
        if not math.isfinite(y):
            pen = "M"
            continue
        across, up_to = frame.place(x, y)
        path.append(f"{pen}{across:.1f} {up_to:.1f}")
        pen = "L"
    parts.append(f'<path class="line stroke{color}" d="{"".join(path)}"/>')
    if points.shape[1] == 1:
        across, up_to = frame.place(*points[:, 0])
        parts.append(f'<circle class="fill{color}" cx="{across:.1f}" cy="{up_to:.1f}" r="3"/>')
    return "".join(parts)


def _svg(title: str, parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _figure(title: str, body: str, legend: Sequence[tuple[str, int]]) -> str:
    items = "".join(
        f'<li><span class="key back{color}"></span>{escape(label)}</li>' for label, color in legend
    )
    listed = f'<ul class="legend">{items}</ul>' if items else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}{listed}</figure>"


def _number(value: float) -> str:
    """A tick in at most seven characters.

    Examples:
        >>> [_number(value) for value in (0.0, 0.25, 1500.0, 2.5e6, 1e-6)]
        ['0', '0.25', '1,500', '2.5M', '1e-06']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.4g}{unit}"
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
