"""Linear models on words: known accuracy, classes without examples, and a missing library."""

import sys

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.demo import wordnet
from jaxbrewer.text import Examples, task_of
from jaxbrewer.text.linear_baseline import linear_logits
from jaxbrewer.text.tasks.classification import accuracy

TEXTS = ["a red fox", "a grey wolf", "red wine", "grey tea"] * 3


@pytest.mark.slow
def test_the_classifier_reaches_its_known_accuracy():
    parts = wordnet.splits(2_000, 2_000)
    logits = linear_logits(parts.train.texts, parts.train.labels, parts.test.texts, classes=25)
    assert accuracy(logits, parts.test.labels) == pytest.approx(0.617, abs=0.01)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classes_without_examples_are_never_predicted(classes):
    labels = np.arange(len(TEXTS)) % min(classes, 4)
    logits = linear_logits(TEXTS, labels, ["a fox"], classes=classes)
    assert logits.shape == (1, classes)
    assert np.isfinite(logits[0, : min(classes, 4)]).all()
    assert (logits[0, 4:] == -np.inf).all()


def test_one_class_is_always_predicted():
    logits = linear_logits(TEXTS, np.full(len(TEXTS), 1), ["tea"], classes=3)
    assert logits.argmax(-1).tolist() == [1]


@pytest.mark.parametrize(
    ("task", "labels", "names"),
    [
        ("classification", np.array([0, 0, 1, 1] * 3, np.int32), ("animal", "drink")),
        ("multi-label", np.array([[1, 0], [1, 0], [0, 1], [0, 1]] * 3, np.int32), ("a", "d")),
        ("regression", np.array([1, 1, 0, 0] * 3, np.float32), ()),
    ],
)
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_tasks_with_one_label_per_text_have_a_baseline_that_learns(task, labels, names, threshold):
    task = task_of(DataConfig(task=task, threshold=threshold))
    train = Examples(TEXTS, None, labels, names)
    held_out = Examples(["the fox", "some tea"], None, labels[[0, 2]], names)
    found = task.score(held_out, None, task.linear_baseline(train, held_out))
    assert found[task.main_metric] == pytest.approx(float(task.larger_is_better), abs=0.2), (
        "perfect, or nearly no error"
    )


def test_examples_without_labels_are_not_learned_from():
    task = task_of(DataConfig())
    labels = np.array([0, 0, 1, 1] * 3, np.int32)
    train = Examples(TEXTS, None, labels, ("animal", "drink"))
    held_out = train.take([0, 2])
    more = train.with_unlabelled(Examples(["a fox"] * 20))
    one, other = (task.linear_baseline(part, held_out).rows["logits"] for part in (train, more))
    np.testing.assert_array_equal(one, other)


def test_without_scikit_learn_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(UsageError, match=r"scikit-learn is not installed: .*jaxbrewer\[baseline\]"):
        linear_logits(["a"], np.array([0]), ["a"], classes=1)
