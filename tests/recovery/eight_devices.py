"""Interrupts trainings on 8 fake CPU devices, resumes them on fewer or more, prints the results.

Run by ``test_devices.py`` in a process of its own, with ``JAX_NUM_CPU_DEVICES=8``.
"""

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.checksums import checksums
from jaxbrewer.devices.mesh import make_layout
from jaxbrewer.devices.sharding import init_state
from tests.recovery import Crash, Crashing, left_behind
from tests.toys import Encoder, hidden_adaptor, quiet, text_data

ONE, FSDP = {}, {"mesh": {"data": 2, "fsdp": 4}}
SOFT = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)


def train(directory, layout, after=None):
    config = quiet(output_dir=directory, resume=True, **layout)
    models = Encoder(64, 1, seed=1), Encoder(64, 1, dropout=0.1)
    distiller = jb.BasicDistiller(config, SOFT, *models, hidden_adaptor, hidden_adaptor)
    loader = jb.ArrayLoader(text_data(32), 16, seed=2)
    try:
        result = distiller.train(
            optax.adam(1e-2),
            loader,
            num_epochs=3,
            batch_postprocessor=None if after is None else Crashing(after),
        )
    except Crash:
        return None
    weights = jb.as_model(result.student).params
    return [result.history["total_loss"], *map(np.asarray, jax.tree.leaves(weights))]


def largest_gap(actual, expected):
    return max(float(np.abs(a - b).max()) for a, b in zip(actual, expected, strict=True))


def sums(layout):
    """Checksums of the same weights, sharded over devices."""
    layout = make_layout(quiet(**layout))
    student = jb.as_model(Encoder(64, 1))
    objective = jb.make_objective(SOFT)

    def start(weights):
        return jb.init_train_state(student, objective, optax.adam(1e-2))

    weights = {**student.variables, "projections": None}
    return checksums(init_state(start, weights, student, layout))


def main():
    with tempfile.TemporaryDirectory() as place:
        unbroken = train(Path(place) / "one", ONE)
        moved = Path(place) / "moved"
        train(moved, ONE, after=3)
        train(moved, FSDP, after=3)
        spread = train(Path(place) / "spread", FSDP)
        train(Path(place) / "broken", FSDP, after=3)
        train(Path(place) / "broken", FSDP)
        print(
            json.dumps(
                {
                    "moved": largest_gap(train(moved, ONE), unbroken),
                    "spread": largest_gap(spread, unbroken),
                    "same": left_behind(Path(place) / "spread")
                    == left_behind(Path(place) / "broken"),
                    "sums": sums(ONE) == sums(FSDP),
                }
            )
        )


if __name__ == "__main__":
    main()
