"""The demo's cheap rival: a linear support vector machine on words and word pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import missing_extra


def svm_accuracy(
    train_texts: Sequence[str],
    train_labels: Any,
    test_texts: Sequence[str],
    test_labels: Any,
) -> float:
    """Test accuracy of TF-IDF over words and word pairs with a linear SVM.

    Uses logarithmic term counts and ``C=1``, the best of the usual settings on the demo's dev set.

    Args:
        train_texts: Training texts.
        train_labels: Their classes, ``[train]``.
        test_texts: Test texts.
        test_labels: Their classes, ``[test]``.

    Returns:
        The fraction of test texts that are classified correctly.

    Raises:
        UsageError: scikit-learn is not installed.

    Examples:
        >>> texts, labels = ["a red fox", "a grey wolf", "red wine", "grey tea"], [0, 0, 1, 1]
        >>> svm_accuracy(texts, labels, ["the fox", "some tea"], [0, 1])
        1.0
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC
    except ImportError:
        raise missing_extra("demo", "scikit-learn") from None
    words = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True)
    classifier = make_pipeline(words, LinearSVC(random_state=0)).fit(train_texts, train_labels)
    return float(np.mean(classifier.predict(test_texts) == np.asarray(test_labels)))
