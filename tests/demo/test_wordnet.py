"""The packaged glosses, their splits, and the script that made them."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.demo import wordnet

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def glosses():
    """The data, read once."""
    loaded = wordnet.load_glosses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordnet, "load_glosses", lambda: loaded)
        yield loaded


@pytest.mark.slow
def test_the_packaged_data_are_complete(glosses):
    assert len(glosses) == len(set(glosses.texts)) == 81_434
    assert len(glosses.label_names) == 25
    sizes = dict(zip(glosses.label_names, np.bincount(glosses.labels).tolist(), strict=True))
    assert min(sizes, key=sizes.get) == "Tops"
    assert max(sizes, key=sizes.get) == "artifact"
    assert "motive" not in sizes
    notice = (wordnet.GLOSSES.parent / "NOTICE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in notice
    assert wordnet.GLOSSES.stat().st_size < 1_500_000


def test_splits_are_disjoint_and_have_the_stated_sizes(glosses):
    parts = wordnet.splits(300, 1_000, seed=5)
    assert [len(part) for part in parts] == [300, 700, 2_000, 4_000]
    texts = [text for part in parts for text in part.texts]
    assert len(set(texts)) == len(texts)
    classes = dict(zip(glosses.texts, glosses.labels, strict=True))
    for part in (parts.train, parts.dev, parts.test):
        assert part.labels.tolist() == [classes[text] for text in part.texts]
    assert parts.unlabelled.labels is None
    assert len(set(parts.train.labels.tolist())) > 15  # not the head of the sorted file


def test_training_sets_are_nested_and_the_held_out_texts_fixed():
    small, large = wordnet.splits(100, 400, seed=1), wordnet.splits(200, 800, seed=1)
    assert large.train.texts[:100] == small.train.texts
    assert large.train.texts + large.unlabelled.texts[:200] == (
        small.train.texts + small.unlabelled.texts
    )
    other = wordnet.splits(100, 400, seed=2)
    assert other.train.texts != small.train.texts
    assert (other.test.texts, other.dev.texts) == (small.test.texts, small.dev.texts)


def test_splits_are_the_same_everywhere():
    parts = wordnet.splits()
    digest = hashlib.sha256("\n".join(parts.train.texts + parts.test.texts).encode())
    assert digest.hexdigest()[:16] == "b4e8a76e614c5828"


@pytest.mark.parametrize("sizes", [(0, 10), (11, 10), (1, 80_000)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match="0 < num_labelled <= num_texts <= 75434"):
        wordnet.splits(*sizes)


def test_the_script_keeps_definitions_of_one_class():
    path = REPOSITORY / "tools" / "build_wordnet.py"
    spec = importlib.util.spec_from_file_location("build_wordnet", path)
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    synset = "0000 {} n 01 word 0 001 ~ 0001 n 0000 | {}  \n"
    lines = [
        "  1 licence | text\n",
        synset.format("05", 'a dog; it barks; "a good dog"; "a bad dog"'),
        synset.format("05", "a cat"),
        synset.format("05", "a cat"),
        synset.format("13", 'a cake; "have it"'),
        synset.format("13", "a fish"),
        synset.format("05", "a fish"),
        synset.format("16", "a motive"),
    ]
    examples = build.parse(lines)
    assert examples[0] == ("animal", "a dog; it barks")
    assert len(examples) == 7
    assert build.select(examples, minimum=1) == [
        ("animal", "a cat"), ("animal", "a dog; it barks"), ("food", "a cake"),
        ("motive", "a motive"),
    ]  # fmt: skip
    assert build.select(examples, minimum=2) == [("animal", "a cat"), ("animal", "a dog; it barks")]
