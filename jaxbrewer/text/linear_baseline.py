"""A cheap rival of every teacher: linear models on the words and word pairs of texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import missing_extra
from .read import Examples

MOST_TRAIN_TEXTS = 20_000
"""Training texts of a baseline; more would take minutes and hardly change its score."""


def linear_logits(
    train_texts: Sequence[str],
    train_labels: Int[np.ndarray, " train"],
    texts: Sequence[str],
    *,
    classes: int,
) -> Float[np.ndarray, "texts classes"]:
    """The margins of a linear support vector machine on TF-IDF of words and word pairs.

    Counts are logarithmic and ``C`` is 1, the best of the usual settings on the demo's dev set.

    Args:
        train_texts: Training texts.
        train_labels: Their classes, ``[train]``.
        texts: Other texts.
        classes: Number of classes.

    Returns:
        The margin of each class, ``-inf`` for classes that no training text has; float64.

    Raises:
        UsageError: scikit-learn is not installed.

    Examples:
        >>> texts, labels = ["a red fox", "a grey wolf", "red wine", "grey tea"], [0, 0, 1, 1]
        >>> linear_logits(texts, np.array(labels), ["the fox", "some tea"], classes=2).argmax(-1)
        array([0, 1])
    """
    LinearSVC = _require_sklearn().svm.LinearSVC
    logits = np.full((len(texts), classes), -np.inf)
    known = np.unique(train_labels)
    if len(known) == 1:
        logits[:, known] = 0.0
        return logits
    features, others = _features(train_texts, texts)
    model = LinearSVC(random_state=0).fit(features, train_labels)
    margins = model.decision_function(others)
    logits[:, known] = margins if len(known) > 2 else np.stack([-margins, margins], axis=-1)
    return logits


def linear_indicator_logits(
    train_texts: Sequence[str],
    train_labels: Int[np.ndarray, "train classes"],
    texts: Sequence[str],
) -> Float[np.ndarray, "texts classes"]:
    """The margins of one linear support vector machine for each class, on the same features.

    Args:
        train_texts: Training texts.
        train_labels: 1 for the classes of a text, otherwise 0, ``[train, classes]``.
        texts: Other texts.

    Returns:
        Margins, positive for classes that a text has, float64.

    Raises:
        UsageError: scikit-learn is not installed.

    Examples:
        >>> labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
        >>> texts = ["a fox", "some tea", "a fox and tea", "nothing"]
        >>> linear_indicator_logits(texts, labels, ["the fox"]) > 0
        array([[ True, False]])
    """
    LinearSVC = _require_sklearn().svm.LinearSVC
    features, others = _features(train_texts, texts)
    logits = np.zeros((len(texts), train_labels.shape[1]))
    for number, labels in enumerate(train_labels.T):
        if labels.min() == labels.max():
            logits[:, number] = 1.0 if labels[0] else -1.0
        else:
            model = LinearSVC(random_state=0).fit(features, labels)
            logits[:, number] = model.decision_function(others)
    return logits


def linear_numbers(
    train_texts: Sequence[str], train_labels: Float[np.ndarray, " train"], texts: Sequence[str]
) -> Float[np.ndarray, " texts"]:
    """The predictions of a ridge regression on TF-IDF of words and word pairs.

    Args:
        train_texts: Training texts.
        train_labels: Their numbers, ``[train]``.
        texts: Other texts.

    Raises:
        UsageError: scikit-learn is not installed.

    Examples:
        >>> texts, labels = ["a fox", "a wolf", "some wine", "some tea"], np.float32([1, 1, 0, 0])
        >>> linear_numbers(texts, labels, ["a dog", "some cake"]).round(1)
        array([0.7, 0.3])
    """
    Ridge = _require_sklearn().linear_model.Ridge
    features, others = _features(train_texts, texts)
    predicted: Float[np.ndarray, " texts"] = Ridge().fit(features, train_labels).predict(others)
    return predicted


def first_labelled(examples: Examples, known: Any) -> tuple[list[str], Any]:
    """The texts that a baseline learns from, at most :data:`MOST_TRAIN_TEXTS`, and their labels.

    Args:
        examples: Texts and their labels.
        known: Whether an example has a label, ``[examples]``.
    """
    assert examples.labels is not None
    rows = np.flatnonzero(known)[:MOST_TRAIN_TEXTS]
    chosen = examples.take(rows)
    return joined_texts(chosen), chosen.labels


def joined_texts(examples: Examples) -> list[str]:
    """The texts; of a pair, both in one.

    Examples:
        >>> joined_texts(Examples(["a"], ["b"]))
        ['a b']
    """
    if examples.pairs is None:
        return examples.texts
    return [f"{one} {two}" for one, two in zip(examples.texts, examples.pairs, strict=True)]


def _features(train_texts: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
    words = _require_sklearn().feature_extraction.text.TfidfVectorizer(
        token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True
    )
    return words.fit_transform(train_texts), words.transform(texts)


def _require_sklearn() -> Any:
    try:
        import sklearn
        import sklearn.feature_extraction.text
        import sklearn.linear_model
        import sklearn.svm
    except ImportError:
        raise missing_extra("baseline", "scikit-learn") from None
    return sklearn
