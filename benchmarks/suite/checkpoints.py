"""The share of a training's time that is lost to checkpoints."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbrewer.run.checkpoint_store import CheckpointStore

from ..common import TOY, Chain, Clock, Row, Sizes, batch_of, bert_pair, make_step, training

SIZES = Sizes(teacher_layers=6, student_layers=3, width=384, batches=((16, 64),), vocabulary=8192,
              rounds=5, steps=10)  # fmt: skip
STEPS_PER_SAVE = 100


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Turns of some steps, with an asynchronous save after the first of them and without one."""
    sizes = TOY if is_toy else SIZES
    teacher, student = bert_pair(sizes)
    step, state = make_step((teacher, student), training())
    data = jax.device_put(batch_of(sizes, *sizes.batches[0]))
    chain = Chain(step, state, teacher.variables, data)
    megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    clocks = {name: Clock() for name in ("without", "with", "blocked")}
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))

        def saving(number: int) -> Any:
            chain(1)
            jax.block_until_ready(chain.state)
            position = {"epoch": 0, "batch": number}
            clocks["blocked"].time(lambda: store.save(number, chain.state, position))
            metrics = jax.block_until_ready(chain(sizes.steps))
            store.wait()
            return metrics

        for number in range(sizes.rounds + 1):
            clocks["without"].time(lambda: chain(1 + sizes.steps))
            clocks["with"].time(lambda number=number: saving(number))
        store.close()
    for clock in clocks.values():
        del clock.seconds[0]  # the first turn compiles
    plain, lost = np.array(clocks["without"].seconds), np.array(clocks["with"].seconds)
    step_seconds = float(np.median(plain)) / (1 + sizes.steps)
    shares = 100 * (lost - plain) / (STEPS_PER_SAVE * step_seconds)
    low, share, high = np.quantile(shares, [0.25, 0.5, 0.75])
    yield Row("checkpoints", "a save blocks the steps for", 1e3 * clocks["blocked"].median, "ms",
              f"{megabytes:,.0f} MB; a step takes {1e3 * step_seconds:.4g} ms")  # fmt: skip
    yield Row("checkpoints", f"time lost to a save every {STEPS_PER_SAVE} steps", float(share), "%",
              f"quartiles {low:.2f} to {high:.2f}; aim at most 1")  # fmt: skip
