"""The TF-IDF baseline reaches its known accuracy."""

import sys

import pytest

from jaxbrewer import UsageError
from jaxbrewer.demo import baseline, wordnet


def test_the_svm_reaches_its_known_accuracy():
    parts = wordnet.splits(2_000, 2_000)
    accuracy = baseline.svm_accuracy(
        parts.train.texts, parts.train.labels, parts.test.texts, parts.test.labels
    )
    assert accuracy == pytest.approx(0.617, abs=0.01)


def test_without_scikit_learn_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(UsageError, match=r"scikit-learn is not installed: .*jaxbrewer\[demo\]"):
        baseline.svm_accuracy(["a"], [0], ["a"], [0])
