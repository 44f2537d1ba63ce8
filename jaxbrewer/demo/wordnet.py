"""The data of the demo: definitions of WordNet's nouns in 25 classes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..text.read import Examples, read_examples

GLOSSES = Path(__file__).parent / "data" / "wordnet_glosses.tsv.xz"
TEST_EXAMPLES, DEV_EXAMPLES = 4_000, 2_000
_HELD_OUT_SEED = 30


class Splits(NamedTuple):
    """Parts of the data that share no text.

    Attributes:
        train: Examples with labels.
        unlabelled: More texts, without labels.
        dev: Examples for the choice of settings.
        test: Examples for the reported numbers.
    """

    train: Examples
    unlabelled: Examples
    dev: Examples
    test: Examples


def load_glosses() -> Examples:
    """Loads all 81,434 examples, sorted by class and text; classes are WordNet's noun files.

    Examples:
        >>> glosses = load_glosses()
        >>> len(glosses), len(set(glosses.texts)), len(glosses.label_names)
        (81434, 81434, 25)
        >>> glosses.texts[2000], glosses.label_names[glosses.labels[2000]]
        ('act of pivoting 180 degrees, especially in a military formation', 'act')
    """
    return read_examples(GLOSSES)


def splits(num_labelled: int = 2_000, num_texts: int = 8_000, seed: int = 0) -> Splits:
    """Draws a training set; the test and dev sets are always the same.

    The order comes from the raw stream of PCG64, which NumPy promises never to change.

    Args:
        num_labelled: Training examples with labels.
        num_texts: Training texts with and without labels. For one seed, a smaller training set is
            a prefix of a larger one.
        seed: Seed of the training set.

    Raises:
        UsageError: The numbers do not fit the data.
    """
    glosses = load_glosses()
    test, dev, rest = np.split(
        _shuffled(np.arange(len(glosses)), _HELD_OUT_SEED),
        [TEST_EXAMPLES, TEST_EXAMPLES + DEV_EXAMPLES],
    )
    if not 0 < num_labelled <= num_texts <= len(rest):
        raise UsageError(
            f"Expected 0 < num_labelled <= num_texts <= {len(rest)}, "
            f"got {num_labelled} and {num_texts}."
        )
    labelled, unlabelled, _ = np.split(_shuffled(rest, seed), [num_labelled, num_texts])
    without_labels = Examples(glosses.take(unlabelled).texts, label_names=glosses.label_names)
    return Splits(glosses.take(labelled), without_labels, glosses.take(dev), glosses.take(test))


def _shuffled(rows: np.ndarray, seed: int) -> np.ndarray:
    return rows[np.argsort(np.random.PCG64(seed).random_raw(len(rows)), kind="stable")]
