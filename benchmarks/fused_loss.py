"""Time and memory of a loss between logits: from whole logits, and by chunks of positions.

``memory`` compiles value and gradient at large sizes and prints the temporary memory of the
programs, which is exact; nothing is run. ``time`` runs both forms in turn, in one process, and
prints medians of the ratios of one turn: of the time on the clock, and of the processors' time,
which other programs on the machine change less.

    python -m benchmarks.fused_loss memory
    python -m benchmarks.fused_loss time --positions 1024 --classes 32768 --width 256
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import jaxbrewer as jb
from jaxbrewer.losses import LogitsOf, choose_chunks
from jaxbrewer.losses import _chunk_sizes as chunks

SIZES = ((4096, 128_256), (4096, 151_936), (1024, 32_768))


def form(loss: str, labels: bool, whole: bool) -> Callable[..., Any]:
    """Value and gradient of an objective of a student, a teacher and labels."""
    weight = 0.5 if labels else 0.0
    config = jb.DistillationConfig(kd_loss_type=loss, temperature=2, hard_label_weight=weight)
    objective = jb.make_objective(config)

    def total(student: LogitsOf, teacher: LogitsOf, classes: Any) -> Any:
        pair = [x.logits() if whole else x for x in (student, teacher)]
        losses = (jb.LabelLoss(classes),) if labels else ()
        outputs = jb.Outputs(logits=(pair[0],), losses=losses)
        return objective(outputs, jb.Outputs(logits=(pair[1],)), {})[0]

    return jax.value_and_grad(total)


def arguments(positions: int, classes: int, widths: tuple[int, int]) -> tuple[Any, ...]:
    """Shapes of a student, a teacher and labels."""
    heads = [
        LogitsOf(
            jax.ShapeDtypeStruct((positions, width), jnp.float32),
            jax.ShapeDtypeStruct((width, classes), jnp.float32),
        )
        for width in widths
    ]
    return (*heads, jax.ShapeDtypeStruct((positions,), jnp.int32))


def programs(sizes: Any, given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The compiled forms, by name."""
    positions, classes = sizes
    shapes = arguments(positions, classes, (given.width, given.teacher_width))
    chunks.CHUNK_BYTES["cpu"] = given.chunk_mb << 20
    for name, whole in (("plain", True), ("fused", False)):
        yield name, jax.jit(form(given.loss, given.labels, whole)).lower(*shapes).compile()


def memory(given: argparse.Namespace) -> None:
    """Prints the temporary memory of value and gradient."""
    print(f"{given.loss}, widths {given.width} and {given.teacher_width}, labels {given.labels}")
    for sizes in SIZES if given.positions is None else ((given.positions, given.classes),):
        bytes_of = {
            name: program.memory_analysis().temp_size_in_bytes
            for name, program in programs(sizes, given)
        }
        plain, fused = (bytes_of[name] / 1e6 for name in ("plain", "fused"))
        own = choose_chunks(*sizes, chunk_bytes=given.chunk_mb << 20)
        print(
            f"{sizes[0]:,} positions x {sizes[1]:,} classes: plain {plain:,.0f} MB, "
            f"{own.number} chunks of {own.size} {fused:,.0f} MB, {plain / fused:.1f} x less"
        )


def clock(given: argparse.Namespace) -> None:
    """Prints the ratios of times, fused over plain."""
    sizes = (given.positions or 1024, given.classes or 32_768)
    rng = np.random.default_rng(0)
    student, teacher = (
        LogitsOf(
            jnp.asarray(rng.normal(size=(sizes[0], width)), jnp.float32),
            jnp.asarray(rng.normal(size=(width, sizes[1])) / width**0.5, jnp.float32),
        )
        for width in (given.width, given.teacher_width)
    )
    labels = jnp.asarray(rng.integers(0, sizes[1], sizes[0]), jnp.int32)
    compiled = dict(programs(sizes, given))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in compiled}
    for turn in range(given.rounds + 1):
        for name, program in compiled.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(student, teacher, labels))
            spent = time.perf_counter() - start[0], time.process_time() - start[1]
            if turn:  # the first warms up
                seconds[name].append(spent)
    print(
        f"{given.loss}, {sizes[0]:,} positions x {sizes[1]:,} classes, widths {given.width} and "
        f"{given.teacher_width}, labels {given.labels}, {given.rounds} turns"
    )
    for kind, of in (("clock", 0), ("processors", 1)):
        medians = {name: statistics.median(s[of] for s in own) for name, own in seconds.items()}
        ratios = [f[of] / p[of] for f, p in zip(seconds["fused"], seconds["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios)
        print(
            f"{kind}: plain {medians['plain']:.2f} s, fused {medians['fused']:.2f} s, "
            f"fused / plain {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})"
        )


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("memory", "time"))
    parser.add_argument("--positions", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--teacher-width", type=int, default=576)
    parser.add_argument("--loss", default="kl")
    parser.add_argument("--labels", action="store_true", help="add the labels' cross entropy")
    parser.add_argument("--chunk-mb", type=int, default=64, help="MiB of a chunk's logits")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    {"memory": memory, "time": clock}[given.what](given)


if __name__ == "__main__":
    main()
