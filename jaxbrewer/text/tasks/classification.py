"""Classification of texts, alone or in pairs, into one of several classes."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import UsageError, abbreviate
from ...models.model_directory import ModelDirectory
from ...run.results import Diagrams
from ..read import Examples, UnknownLabelError, read_examples
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from .measure import (
    Measure,
    Statistics,
    calibration_bins,
    calibration_error,
    macro_f1,
    means,
)
from .task import Arrays, Head, Predictions, Task


class Classification(Task[Examples]):
    """One of several classes for each text, or pair of texts."""

    name = "classification"
    head = "sequence-classification"
    main_metric = "accuracy"
    reads_same_tokens = False

    def read(
        self, path: str, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Examples:
        """Reads the columns ``data.text``, ``data.text_pair`` and ``data.label``."""
        data = self.data
        names = names or data.labels
        try:
            return read_examples(
                path, text=data.text, text_pair=data.text_pair, label=data.label, labels=names
            )
        except UnknownLabelError as error:
            source = "data.labels" if data.labels else origin
            remedy = (
                "add it there" if data.labels else "to have more, list all of them in data.labels"
            )
            raise UsageError(f"{error} The classes are those of {source}: {remedy}.") from None

    def read_unlabelled(self, path: Source) -> Examples:
        """Reads the columns ``data.text`` and ``data.text_pair``."""
        return read_examples(path, text=self.data.text, text_pair=self.data.text_pair, label=None)

    def encode(self, tokenizer: Tokenizer, examples: Examples) -> Encoded:
        """Tokenizes the texts; the class numbers are the column ``labels``."""
        encoded = tokenizer.encode(examples.texts, examples.pairs, max_length=self.data.max_length)
        if examples.labels is None:
            return encoded
        return dataclasses.replace(encoded, columns={"labels": examples.labels})

    def describe(self, examples: Examples) -> list[tuple[str, str]]:
        """The names of the classes."""
        return [("classes", f"{len(examples.label_names)}: {abbreviate(examples.label_names)}")]

    @classmethod
    def is_task_of(cls, source: ModelDirectory) -> bool:
        """Whether it has a head for several classes, of which one is right."""
        kind = source.fields.get("problem_type") or "single_label_classification"
        is_single = kind == "single_label_classification" and len(source.labels) > 1
        return source.has_head(cls.head) and is_single

    def head_to_train(self, source: ModelDirectory, examples: Examples) -> Head:
        """The model's own classes if the examples have the same ones, else a new head's."""
        if len(examples.label_names) < 2:
            raise UsageError(
                f"data.train has one class, {abbreviate(examples.label_names)}: a classifier needs "
                "two."
            )
        if source.has_head(self.head) and set(source.labels) == set(examples.label_names):
            return Head(source.labels)
        return Head(examples.label_names, is_new=True)

    def head_to_use(self, source: ModelDirectory, examples: Examples) -> Head:
        """The classes of a trained model, under the names that the examples use.

        The classes of a model without class names are those of ``data.labels``, in this order, or
        else numbers.
        """
        self.require_head(source)
        found, count = examples.label_names, len(source.labels)
        if count < 2:
            raise UsageError(f"{source.directory} has {count} classes: a classifier needs two.")
        if set(found) <= set(source.labels):
            return Head(source.labels)
        if source.labels_are_numbers:
            if self.data.labels and len(found) == count:
                return Head(found)
            numbers = tuple(map(str, range(count)))
            if set(found) <= set(numbers):
                return Head(numbers)
        raise UsageError(
            f"{source.directory} has other classes ({count}: {abbreviate(source.labels)}) than the "
            f"data ({len(found)}: {abbreviate(found)})."
        )

    def with_head(self, examples: Examples, head: Head) -> Examples:
        """Numbers the classes of the examples as in ``head.names``.

        Examples:
            >>> from jaxbrewer.configs import DataConfig
            >>> examples = Examples(["x", "y"], None, np.int32([0, 1]), ("cat", "dog"))
            >>> head = Head(("dog", "fox", "cat"))
            >>> Classification(DataConfig()).with_head(examples, head).labels
            array([2, 0], dtype=int32)
        """
        if examples.labels is None:
            return dataclasses.replace(examples, label_names=head.names)
        numbers = np.array([head.names.index(name) for name in examples.label_names], np.int32)
        labels = np.where(examples.labels < 0, examples.labels, numbers[examples.labels])
        return dataclasses.replace(examples, labels=labels, label_names=head.names)

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Logits, labels and their cross-entropy; a negative label means that there is none."""
        return adaptor(batch, outputs)

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The logits."""
        return {"logits": outputs["logits"]}, {}

    def measure(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Measure:
        """Accuracy, macro-F1, mean cross-entropy in nats, and calibration error."""
        assert examples.labels is not None
        known = examples.labels >= 0
        labels, logits = examples.labels[known], predictions.rows["logits"][known]
        return measure_classes(logits, labels)

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

    def reorder(self, predictions: Predictions, order: Sequence[int]) -> Predictions:
        """The logits with their columns in another order."""
        return Predictions({"logits": predictions.rows["logits"][:, list(order)]})

    def decode(
        self, examples: Examples, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The class with the largest probability, and all probabilities."""
        for row in np.exp(log_softmax(predictions.rows["logits"])):
            yield {
                "label": names[int(row.argmax())],
                "probabilities": dict(zip(names, map(float, row), strict=True)),
            }


def adaptor(batch: Arrays, outputs: Arrays) -> dict[str, Any]:
    """The adaptor of a classifier; a negative label means that the example has none."""
    import jax.numpy as jnp
    import optax

    from ...losses import masked_mean

    answer = {
        "logits": outputs["logits"],
        "inputs_mask": batch["attention_mask"],
        "hidden": outputs.get("hidden_states"),
        "attention": outputs.get("attention_scores"),
    }
    if "labels" in batch:
        has_label = batch["labels"] >= 0
        labels = jnp.where(has_label, batch["labels"], 0)
        loss = optax.softmax_cross_entropy_with_integer_labels(
            outputs["logits"].astype(jnp.float32), labels
        )
        answer |= {"labels": batch["labels"], "losses": masked_mean(loss, has_label)}
    return answer


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
            "macro_f1": macro_f1(of["label"], of["predicted"], classes),
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
