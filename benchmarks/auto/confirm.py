"""Confirms ``distillation: auto`` on sets of texts that chose no setting, over three seeds.

The models and their lengths are those of the recipes (``examples/recipes/recipe.py``), the losses
those of ``auto``::

    python benchmarks/auto/confirm.py topics --data DATA --results docs/results/auto/topics.json

``datasets.py`` lists the sets and where ``DATA`` comes from.
"""

import argparse
import json
import sys
from pathlib import Path

from datasets import CONFIRM

sys.path.append(str(Path(__file__).parents[2] / "examples" / "recipes"))

from recipe import Recipe, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=CONFIRM)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results")
    parser.add_argument("--steps", type=int, default=Recipe.student_steps, help="of each student")
    parser.add_argument("--teacher-epochs", type=int, default=Recipe.teacher_epochs)
    parser.add_argument("--learning-rate", type=float, help="of each student")
    parser.add_argument("--distillation", type=json.loads, default={}, help="fields, as JSON")
    parser.add_argument("--toy", action="store_true", help="a few texts and a tiny teacher")
    given = parser.parse_args()
    split = CONFIRM[given.set](given.data)
    is_lexical = split.data.task == "token-classification"
    student = {"student_layers": (), "learning_rate": 1e-3} if is_lexical else {}
    if given.learning_rate is not None:
        student["learning_rate"] = given.learning_rate
    texts = split.train, split.unlabelled, split.test
    run(
        Recipe(
            split.data,
            *texts,
            distillation=given.distillation,
            teacher_epochs=given.teacher_epochs,
            student_steps=given.steps,
            **student,
        ),
        given,
    )


if __name__ == "__main__":
    main()
