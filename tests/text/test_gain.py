"""A student against the same student on labels alone: the paired comparison of an evaluation."""

import re

import numpy as np
import pytest

from jaxbrewer.configs import DataConfig
from jaxbrewer.text import Examples
from jaxbrewer.text.evaluation import ModelToScore, evaluation_of
from jaxbrewer.text.gain import describe_gain
from jaxbrewer.text.tasks import Predictions, Texts
from jaxbrewer.text.tasks.classification import Classification
from tests.pages import page_block

COUNT, TASK = 400, Classification(DataConfig())
LABELS = np.random.default_rng(0).integers(0, 2, COUNT)


def gain_of(**accuracies):
    """The gain of models that are right on as many of the first examples."""
    examples = Examples(["x"] * COUNT, labels=LABELS, label_names=("a", "b"))
    models = {}
    for name, accuracy in accuracies.items():
        predicted = np.where(np.arange(COUNT) < accuracy * COUNT, LABELS, 1 - LABELS)
        predictions = Predictions({"logits": np.eye(2)[predicted]}, {})
        models[name] = ModelToScore(predictions, None, Texts(examples, None), ("a", "b"))
    return evaluation_of(TASK, models)["rows"]["student"]["gain"]


@pytest.mark.parametrize(
    ("student", "verdict", "sentence"),
    [
        (0.72, "gain", r"improved accuracy over labels alone by 0.120 \[.*\], 60 % of the gap to"),
        (0.5, "loss", r"made accuracy worse than labels alone by 0.100 \[0.07., 0.13.\]: prefer"),
        (0.6, "no difference", r"did not measurably change accuracy: .* \[.*\] contains 0"),
    ],
)
def test_the_gain_is_a_paired_difference_from_labels_alone(student, verdict, sentence):
    gain = gain_of(teacher=0.8, baseline=0.6, student=student)
    assert gain["difference"]["accuracy"] == pytest.approx(student - 0.6)
    assert gain["verdict"] == verdict
    assert gain["gap_closed"] == pytest.approx((student - 0.6) / 0.2)
    # The differences are 0 or 1 per example, so the paired error is that of a share.
    share = abs(student - 0.6)
    width = 2 * 1.96 * np.sqrt(share * (1 - share) / COUNT)
    low, high = gain["difference_intervals"]["accuracy"]
    assert high - low == pytest.approx(width, rel=0.1)
    assert re.search(sentence, describe_gain(gain, TASK.main_metric))


def test_the_sentence_of_the_page_is_what_is_printed():
    gain = {
        "difference": {"accuracy": 0.089},
        "difference_intervals": {"accuracy": [0.061, 0.117]},
        "verdict": "gain",
        "gap_closed": 0.72,
    }
    shown = page_block("evaluation.md", "Distillation improved accuracy")
    assert describe_gain(gain, "accuracy") == shown


@pytest.mark.slow
def test_no_share_of_a_gap_that_does_not_exist():
    for others in ({"teacher": 0.5}, {"teacher": 0.6}, {"teacher 0": 0.9, "teacher 1": 0.9}):
        gain = gain_of(**others, baseline=0.6, student=0.7)
        assert (gain["verdict"], gain["gap_closed"]) == ("gain", None)
