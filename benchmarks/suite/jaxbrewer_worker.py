"""jaxbrewer's side of ``peers.py`` for encoders."""

import json
import sys

import optax

from benchmarks.suite.overhead import RATE, TOTAL, Pair, make_distiller
from benchmarks.suite.turns import turns


def main() -> None:
    """Trains a turn at a time: the distiller calls back after the steps of each."""
    pair = Pair(**json.loads(sys.argv[1])["pair"])
    student = pair.bert(pair.student_layers, 1)
    distiller = make_distiller(pair, pair.bert(pair.teacher_layers, 0), student)
    turn = turns()
    next(turn)
    distiller.train(
        optax.adamw(optax.linear_schedule(RATE, 0.0, TOTAL)),
        pair.batches(),
        num_steps=TOTAL,
        max_grad_norm=1.0,
        callback=lambda model, step: next(turn),
    )


if __name__ == "__main__":
    main()
