"""jaxbrewer's side of ``peers.py`` for encoders.

The arguments after the settings are names of ``variants.VARIANTS``, and ``cached`` for a teacher
whose outputs are read from the disk.
"""

import json
import sys
import tempfile

import optax

from benchmarks.suite.overhead import RATE, TOTAL, Pair, make_distiller
from benchmarks.suite.passes import Passes, wait_for_device
from benchmarks.suite.turns import turns
from benchmarks.suite.variants import VARIANTS


def main(settings: str, *arguments: str) -> None:
    """Trains a turn at a time."""
    pair = Pair(**json.loads(settings)["pair"])
    student = pair.bert(pair.student_layers, 1)
    training = {}
    for name in arguments:
        training |= VARIANTS.get(name, {})
    with tempfile.TemporaryDirectory() as folder:
        if "cached" in arguments:
            training["cache_dir"] = f"{folder}/cache"
        distiller = make_distiller(pair, pair.bert(pair.teacher_layers, 0), student, training)
        turn = turns(wait_for_device)
        next(turn)
        distiller.train(
            optax.adamw(optax.linear_schedule(RATE, 0.0, TOTAL)),
            Passes(pair.batches(), lambda: next(turn), passes_before="cached" in arguments),
            num_steps=TOTAL,
            max_grad_norm=1.0,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
