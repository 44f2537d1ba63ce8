"""Classification of texts, alone or in pairs, into one of several classes."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...run.results import Diagrams
from ..linear_baseline import first_labelled, joined_texts, linear_logits
from ..read import Examples, read_examples
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from .classes import ClassesTask, count_classes, renumbered
from .label_loss import PLAIN, LabelLoss
from .measure import Measure, Statistics, calibration_bins, calibration_error, means
from .task import Arrays, Head, Predictions


class Classification(ClassesTask[Examples]):
    """One of several classes for each text, or pair of texts."""

    name = "classification"
    head = "sequence-classification"
    problem_type = "single_label_classification"
    metrics = ("accuracy", "macro_f1", "loss", "calibration_error")
    main_metric = "accuracy"
    reads_same_tokens = False

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Examples:
        """Reads the columns ``data.text``, ``data.text_pair`` and ``data.label``."""
        data = self.data
        with self.unknown_labels(origin):
            return read_examples(
                path,
                text=data.text,
                text_pair=data.text_pair,
                label=data.label,
                labels=names or self.label_names,
                label_map=data.label_map,
            )

    def read_unlabelled(self, path: Source) -> Examples:
        """Reads the columns ``data.text`` and ``data.text_pair``."""
        return read_examples(path, text=self.data.text, text_pair=self.data.text_pair, label=None)

    def encode(self, tokenizer: Tokenizer, examples: Examples) -> Encoded:
        """Tokenizes the texts; the class numbers are the column ``labels``."""
        return encode_texts(tokenizer, examples, self.data.max_length)

    def with_head(self, examples: Examples, head: Head) -> Examples:
        """Numbers the classes of the examples as in ``head.names``.

        Examples:
            >>> from jaxbrewer.configs import DataConfig
            >>> examples = Examples(["x", "y"], None, np.int32([0, 1]), ("cat", "dog"))
            >>> head = Head(("dog", "fox", "cat"))
            >>> Classification(DataConfig()).with_head(examples, head).labels
            array([2, 0], dtype=int32)
        """
        labels = examples.labels
        if labels is not None:
            labels = renumbered(labels, examples.label_names, head.names)
        return dataclasses.replace(examples, labels=labels, label_names=head.names)

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Logits, labels and their cross-entropy; a negative label means that there is none."""
        return adaptor(batch, outputs, self.label_loss)

    def class_numbers(self, examples: Examples) -> Int[np.ndarray, " examples"]:
        """The labels."""
        return np.zeros(0, np.int32) if examples.labels is None else examples.labels

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The logits."""
        return {"logits": outputs["logits"]}, {}

    def measure(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Measure:
        """Accuracy, macro-F1, mean cross-entropy in nats, and calibration error."""
        return measure_classes(*_labelled(examples, predictions))

    def details(
        self, examples: Examples, encoded: Encoded, predictions: Predictions
    ) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each class."""
        logits, labels = _labelled(examples, predictions)
        counts = count_classes(logits.argmax(-1), labels, logits.shape[-1])
        return counts.by_class(examples.label_names)

    def diagrams(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Diagrams:
        """The confusion matrix, and the calibration of the predicted classes."""
        assert examples.labels is not None
        known = examples.labels >= 0
        labels, logits = examples.labels[known], predictions.rows["logits"][known]
        return diagrams_of_classes(logits, labels, examples.label_names)

    def agreement(
        self, examples: Examples, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """The share of equal classes, and the KL divergence from the teacher in nats."""
        return compare_classes(student.rows["logits"], teacher.rows["logits"])

    def answers(self, student: Predictions, teacher: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """The probability of the student's class, and whether the teacher has the same."""
        logits, other = student.rows["logits"], teacher.rows["logits"]
        confidence = np.exp(log_softmax(logits).max(-1))
        return confidence, logits.argmax(-1) == other.argmax(-1)

    def linear_baseline(self, train: Examples, held_out: Examples) -> Predictions:
        """The margins of a linear support vector machine."""
        assert train.labels is not None
        texts, labels = first_labelled(train, train.labels >= 0)
        others, classes = joined_texts(held_out), len(held_out.label_names)
        return Predictions({"logits": linear_logits(texts, labels, others, classes=classes)})

    def decode(
        self, examples: Examples, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The class with the largest probability, and all probabilities."""
        for row in np.exp(log_softmax(predictions.rows["logits"])):
            yield {
                "label": names[int(row.argmax())],
                "probabilities": dict(zip(names, map(float, row), strict=True)),
            }


def encode_texts(tokenizer: Tokenizer, examples: Examples, max_length: int) -> Encoded:
    """Tokenizes texts and pairs; the labels, if there are any, are the column ``labels``."""
    encoded = tokenizer.encode(examples.texts, examples.pairs, max_length=max_length)
    if examples.labels is None:
        return encoded
    return dataclasses.replace(encoded, columns={"labels": examples.labels})


def shared_outputs(batch: Arrays, outputs: Arrays) -> dict[str, Any]:
    """What the adaptors of all tasks return: the mask, hidden states and attention scores."""
    return {
        "inputs_mask": batch["attention_mask"],
        "hidden": outputs.get("hidden_states"),
        "attention": outputs.get("attention_scores"),
    }


def adaptor(batch: Arrays, outputs: Arrays, label_loss: LabelLoss = PLAIN) -> dict[str, Any]:
    """The adaptor of a classifier; a negative label means that the example has none."""
    logits = outputs["logits"]
    answer = {"logits": logits, **shared_outputs(batch, outputs)}
    if "labels" in batch:
        labels = batch["labels"]
        answer |= {"labels": labels, "losses": label_loss(logits, labels)}
    return answer


def _labelled(
    examples: Examples, predictions: Predictions
) -> tuple[Float[np.ndarray, "labelled classes"], Int[np.ndarray, " labelled"]]:
    assert examples.labels is not None
    known = examples.labels >= 0
    return predictions.rows["logits"][known], examples.labels[known]


def accuracy(
    logits: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> float:
    """The fraction of labelled examples whose class has the largest logit."""
    known = labels >= 0
    return float(np.mean(logits[known].argmax(-1) == labels[known]))


def cross_entropy(
    logits: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> float:
    """The mean cross-entropy of labelled examples, in nats."""
    known = labels >= 0
    chosen = np.take_along_axis(log_softmax(logits[known]), labels[known][:, None], axis=-1)
    return float(-chosen.mean())


def measure_classes(
    logits: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> Measure:
    """Accuracy, macro-F1, mean cross-entropy in nats, and calibration error.

    Args:
        logits: The logits of labelled examples.
        labels: Their class numbers.

    Examples:
        >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> metrics = measure_classes(logits, np.array([0, 0, 1])).metrics()
        >>> {name: round(value, 4) for name, value in metrics.items()}
        {'accuracy': 0.6667, 'macro_f1': 0.6667, 'loss': 0.4963, 'calibration_error': 0.2992}
    """
    classes, log_p = logits.shape[-1], log_softmax(logits)
    chosen = np.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]

    def metrics_of(of: Statistics) -> dict[str, Any]:
        is_correct = of["label"] == of["predicted"]
        return {
            "accuracy": is_correct.mean(),
            "macro_f1": count_classes(of["predicted"], of["label"], classes).macro_f1,
            "loss": of["nats"].mean(),
            "calibration_error": calibration_error(of["confidence"], is_correct),
        }

    statistics = {
        "label": labels,
        "predicted": logits.argmax(-1),
        "nats": -chosen,
        "confidence": np.exp(log_p.max(-1)),
    }
    return Measure(statistics, metrics_of)


def diagrams_of_classes(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    names: Sequence[str],
) -> Diagrams:
    """The confusion matrix and the calibration of labelled examples.

    Examples:
        >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> diagrams_of_classes(logits, np.array([0, 0, 1]), ["cat", "dog"])["confusion"]
        {'names': ['cat', 'dog'], 'counts': [[1, 1], [0, 1]]}
    """
    classes, predicted = logits.shape[-1], logits.argmax(-1)
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    confidence = np.exp(log_softmax(logits).max(-1))
    bins = calibration_bins(confidence, labels == predicted)
    mean, share, count = (values.tolist() for values in bins)
    return {
        "confusion": {"names": list(names), "counts": counts.reshape(classes, classes).tolist()},
        "calibration": {"confidence": mean, "accuracy": share, "count": count},
    }


def compare_classes(
    student: Float[np.ndarray, "examples classes"], teacher: Float[np.ndarray, "examples classes"]
) -> Measure:
    """How two models' classes differ: the share of equal ones, and KL(teacher || student) in nats.

    Examples:
        >>> compare_classes(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])).metrics()
        {'top1_agreement': 1.0, 'kl_divergence': 0.0}
    """
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    p = np.exp(log_p)
    divergence = np.sum(p * np.where(p > 0, log_p - log_q, 0.0), axis=-1)
    return means(
        top1_agreement=(student.argmax(-1) == teacher.argmax(-1)).astype(np.float64),
        kl_divergence=divergence,
    )


def log_softmax(logits: Float[np.ndarray, "*rest classes"]) -> Float[np.ndarray, "*rest classes"]:
    """The logarithm of the softmax, in float64."""
    shifted = np.float64(logits) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
