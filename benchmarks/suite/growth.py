"""How time and memory of a step grow with the batch, the length, matches, teachers and data."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.cache import TeacherCache, build_cache, with_outputs
from jaxbrewer.report.svg import HEIGHT, WIDTH, Line, line_chart

from ..common import TOY, Clock, Row, Sizes, adaptor, batch_of, bert, distillation

SIZES = Sizes(teacher_layers=4, student_layers=4, width=192, heads=6, vocabulary=1000, rounds=7,
              steps=2)  # fmt: skip
BATCH, LENGTH = 8, 32
DRAWING = Path(__file__).parents[2] / "docs" / "growth.svg"
_ACROSS = 3
_STYLE = """text { font: 11px system-ui, sans-serif; fill: #57606a; } .grid { stroke: #d8dee4; }
.line { fill: none; stroke: #2463c9; stroke-width: 1.6; }
@media (prefers-color-scheme: dark) { text { fill: #9aa4ae; } .grid { stroke: #363c43; }
.line { stroke: #6ea8ff; } }"""


class Growth(NamedTuple):
    """What a step costs at several amounts of one thing.

    Attributes:
        amounts: How much of it.
        seconds: Median time of a step, or of an example from a cache.
        megabytes: Temporary memory of the compiled step; empty where it cannot grow.
    """

    amounts: list[int]
    seconds: list[float]
    megabytes: list[float]


def measure(is_toy: bool) -> dict[str, Growth]:
    """The growth with each thing, by its name."""
    sizes = dataclasses.replace(TOY, teacher_layers=2, student_layers=2) if is_toy else SIZES
    scales = (1, 2) if is_toy else (1, 2, 3, 4, 6, 8)
    layers = (0, 2) if is_toy else (0, 1, 2, 3, 4)
    batches = [BATCH * scale for scale in scales]
    lengths = [LENGTH * scale for scale in scales]
    return {
        "examples in a batch": _grow(batches, lambda n: _job(sizes, batch=n), sizes),
        "tokens in a text": _grow(lengths, lambda n: _job(sizes, length=n), sizes),
        "matched layers": _grow(list(layers), lambda n: _job(sizes, matches=n), sizes),
        "teachers": _grow(list(scales)[:4], lambda n: _job(sizes, teachers=n), sizes),
        "examples in a cache": _cached(sizes, [64, 128] if is_toy else [1024, 2048, 4096, 8192]),
    }


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """How near each growth is to a straight line, as R²; draws them in ``docs/growth.svg``."""
    growths = measure(is_toy)
    if not is_toy:
        DRAWING.write_text(draw(growths))
    for name, growth in growths.items():
        for what, values in (("time", growth.seconds), ("memory", growth.megabytes)):
            if values:
                yield Row("growth", f"{what} with {name}", straightness(growth.amounts, values),
                          "R²", _note(growth, values, what))  # fmt: skip


def _note(growth: Growth, values: list[float], what: str) -> str:
    scale, unit = (1e3, "ms") if what == "time" else (1, "MB")
    pairs = zip(growth.amounts, values, strict=True)
    return f"{unit}: " + ", ".join(f"{n:,}: {scale * value:.3g}" for n, value in pairs)


def straightness(amounts: list[int], values: list[float]) -> float:
    """The share of the variance that the best straight line explains; 1 for a constant."""
    x, y = np.float64(amounts), np.float64(values)
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    spread = np.sum((y - y.mean()) ** 2)
    return 1.0 if spread < (0.02 * y.mean()) ** 2 * len(y) else float(1 - np.sum(rest**2) / spread)


def _grow(amounts: list[int], job: Callable[[int], "_Job"], sizes: Sizes) -> Growth:
    """Measures the jobs in turn, so that a busy moment slows all of them."""
    jobs = [job(amount) for amount in amounts]
    clocks = [Clock() for _ in jobs]
    for _ in range(sizes.rounds):
        for clock, one in zip(clocks, jobs, strict=True):
            clock.time(lambda one=one: one.run(sizes.steps), sizes.steps)
    return Growth(amounts, [clock.median for clock in clocks], [one.megabytes for one in jobs])


class _Job:
    """A compiled step with its state, after a first run."""

    def __init__(self, step: Any, state: Any, teachers: Any, batch: Any):
        self.program = step.lower(state, teachers, batch).compile()
        self.megabytes = self.program.memory_analysis().temp_size_in_bytes / 1e6
        self.state, self.teachers, self.batch = state, teachers, batch
        jax.block_until_ready(self.run(1))

    def run(self, steps: int) -> Any:
        for _ in range(steps):
            self.state, metrics = self.program(self.state, self.teachers, self.batch)
        return metrics


def _job(
    sizes: Sizes, batch: int = BATCH, length: int = LENGTH, matches: int = 0, teachers: int = 1
) -> _Job:
    student = jb.as_model(bert(sizes.student_layers, sizes, 0))
    found = [jb.as_model(bert(sizes.teacher_layers, sizes, seed + 1)) for seed in range(teachers)]
    objective = jb.make_objective(
        distillation(
            intermediate_matches=[
                {"layer_T": n, "layer_S": n, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
                for n in range(1, matches + 1)
            ]
        )
    )
    optimizer = jb.make_optimizer(optax.adamw(1e-4), objective)
    state = jb.init_train_state(student, objective, optimizer)
    step = jb.make_train_step(
        student, found, objective, optimizer, adaptor_S=adaptor, adaptor_T=adaptor
    )
    variables = tuple(model.variables for model in found)
    data = jax.device_put(batch_of(sizes, batch, length))
    return _Job(jax.jit(step, donate_argnums=0), state, variables, data)


def _cached(sizes: Sizes, amounts: list[int]) -> Growth:
    """Reads all teacher outputs of a cache, in batches in random order."""
    teacher = jb.as_model(bert(1, sizes, 0))
    seconds = []
    for count in amounts:
        data = batch_of(sizes, count, 8) | {"example_id": np.arange(count, dtype=np.int32)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "cache")
            build_cache(path, teacher, adaptor, jb.ArrayLoader(data, 64, shuffle=False))
            cache, clock = TeacherCache(path), Clock()
            for _ in range(sizes.rounds):
                start = time.perf_counter()
                for batch in jb.ArrayLoader(data, 32):
                    with_outputs(batch, cache)
                clock.seconds.append(time.perf_counter() - start)
        seconds.append(clock.median)
    return Growth(amounts, seconds, [])


def draw(growths: dict[str, Growth]) -> str:
    """Small charts of time over amount, beside each other, as one SVG."""
    charts = []
    for number, (name, growth) in enumerate(growths.items()):
        points = np.array([growth.amounts, 1e3 * np.array(growth.seconds)])
        figure = line_chart(f"ms with {name}", [Line(name, points, 0)], x_label=name)
        body = figure[figure.index("<svg") : figure.index("</svg>")] + "</svg>"
        x, y = number % _ACROSS * WIDTH, number // _ACROSS * HEIGHT
        charts.append(
            body.replace("<svg", f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"', 1)
        )
    width, height = WIDTH * _ACROSS, HEIGHT * -(-len(growths) // _ACROSS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" role="img" aria-label="Milliseconds over amounts">'
        f"<style>{_STYLE}</style>{''.join(charts)}</svg>\n"
    )
