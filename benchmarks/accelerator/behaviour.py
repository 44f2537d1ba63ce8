"""What a training does besides computing: saves, donation, compilations, transfers."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optax

import jaxbrewer as jb

from ..common import (
    Row,
    Sizes,
    adaptor,
    batch_of,
    bert,
    bert_pair,
    distillation,
    make_step,
    training,
)


def run(sizes: Sizes) -> Iterator[Row]:
    """All of them."""
    yield from donation_and_compilation(sizes.small())
    yield from transfers(sizes.small())
    yield from saves(sizes)


def donation_and_compilation(sizes: Sizes) -> Iterator[Row]:
    """Whether the old state's buffers are gone, and how often a step compiles."""
    pair = bert_pair(sizes)
    step, state = make_step(pair, training("bfloat16"))
    batch, length = sizes.checked
    shapes = [(batch, length), (batch, length // 2)] * 2
    for index, shape in enumerate(shapes):
        old = state
        data = jax.device_put(batch_of(sizes, *shape, seed=index))
        state, metrics = step(state, pair[0].variables, data)
    jax.block_until_ready(metrics)
    leaves = jax.tree.leaves(old)
    deleted = sum(leaf.is_deleted() for leaf in leaves)
    yield Row("behaviour", "donated buffers deleted", deleted / len(leaves), "share",
              f"{deleted} of {len(leaves)} arrays of the state; aim 1")  # fmt: skip
    yield Row("behaviour", f"compilations for {len(set(shapes))} shapes in {len(shapes)} steps",
              step._cache_size(), "", f"aim {len(set(shapes))}")  # fmt: skip
    data = jax.device_put(batch_of(sizes, *shapes[0]))
    with jax.transfer_guard("disallow_explicit"):
        error = raised(lambda: jax.block_until_ready(step(state, pair[0].variables, data)))
    yield Row("behaviour", "transfers in a step on placed data", error or "none", "",
              "under jax.transfer_guard; aim none")  # fmt: skip


def raised(task: Any) -> str | None:
    """The first line of what ``task()`` raises."""
    try:
        task()
    except Exception as error:  # whatever the guard raises
        return str(error).splitlines()[0][:100]
    return None


def distiller(sizes: Sizes, **fields: Any) -> jb.GeneralDistiller:
    """A distiller over the pair in bfloat16."""
    return jb.GeneralDistiller(
        training("bfloat16", **fields), distillation(),
        bert(sizes.teacher_layers, sizes, 0), bert(sizes.student_layers, sizes, 1),
        adaptor, adaptor,
    )  # fmt: skip


def transfers(sizes: Sizes) -> Iterator[Row]:
    """Whether a training reads from the device where nobody asked it to."""
    batches = [batch_of(sizes, *sizes.checked, seed=seed) for seed in range(2)]
    own = distiller(sizes)

    def train() -> None:
        with jax.transfer_guard_device_to_host("disallow"):
            own.train(optax.adamw(1e-4), batches, num_epochs=2)

    error = raised(train)
    yield Row("behaviour", "implicit reads from the device in a training", error or "none", "",
              "aim none")  # fmt: skip


def saves(sizes: Sizes) -> Iterator[Row]:
    """What a checkpoint costs the training: steps with saves against steps without."""
    batch, length = sizes.batches[0]
    batches = [batch_of(sizes, batch, length, seed=seed) for seed in range(2)]
    between, number = 4 * sizes.steps, 3
    with tempfile.TemporaryDirectory() as place:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for saving in (False, True):
            directory = Path(place) / "run" if saving else None
            own = distiller(sizes, output_dir=directory, ckpt_steps=between, keep_last=1)
            marks: list[float] = []

            def mark(model: Any, step: int, marks: list[float] = marks) -> None:
                jax.block_until_ready(jax.tree.leaves(jb.as_model(model).variables))
                marks.append(time.perf_counter())

            own.train(optax.adamw(1e-4), batches, num_steps=between * (number + 1), callback=mark)
            seconds[saving] = [after - before for before, after in itertools.pairwise(marks)]
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    plain, with_saves = (statistics.median(seconds[saving]) for saving in (False, True))
    yield Row("behaviour", "time lost to an asynchronous save", 1e3 * (with_saves - plain), "ms",
              f"{between} steps take {plain:.3g} s, with a save {with_saves:.3g} s; "
              f"{size / 1e6:.0f} MB in the run's directory")  # fmt: skip
    share = max(with_saves - plain, 0) / (100 * plain / between)
    yield Row("behaviour", "time lost at one save in 100 steps", 100 * share, "%", "aim at most 1")
