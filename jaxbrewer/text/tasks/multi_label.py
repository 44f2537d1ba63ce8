"""Classification of texts, alone or in pairs, into any number of several classes."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ...configs.auto import needs_of_task
from ...errors import UsageError
from ..labels import (
    UNLABELLED,
    as_names,
    check_label,
    check_text,
    number_of,
    require_known,
    shortened,
    sorted_names,
    warn_of_similar,
)
from ..linear_baseline import first_labelled, joined_texts, linear_indicator_logits
from ..read import Examples, read_examples, value_of
from ..rows import Source, read_rows
from ..tokenize import Encoded, Tokenizer
from .classes import ClassesTask, count_sets
from .classification import encode_texts, shared_outputs
from .measure import Measure, Statistics, means
from .task import Arrays, Head, Predictions

_INDICATORS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class MultiLabel(ClassesTask[Examples]):
    """Any number of several classes for each text, or pair of texts."""

    name = "multi-label"
    head = "sequence-classification"
    problem_type = "multi_label_classification"
    metrics = ("micro_f1", "macro_f1", "mean_average_precision", "loss")
    main_metric = "micro_f1"
    reads_same_tokens = False
    distillation_defaults = needs_of_task(name)
    kd_loss_types = ("bce", "mse")

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Examples:
        """Reads the texts and their classes.

        ``data.label`` is a column with a list of names, or with names separated by ``|``. In a file
        without it, each name in ``data.labels`` is a column with 0 or 1.
        """
        data, known = self.data, tuple(names or self.label_names or ())
        columns = {"text": data.text, "text_pair": data.text_pair}
        texts: dict[str, list[str]] = {field: [] for field, column in columns.items() if column}
        labels: list[str] = []
        rows: list[int] = []
        places: list[str] = []
        for row, (line, values) in enumerate(read_rows(path)):
            place = f"{path}:{line}"
            for field, found in texts.items():
                column = str(columns[field])
                value = value_of(values, column, field, place)
                found.append(check_text(value, f"{place}: the {field} {column!r}"))
            own = self._labels_of(values, known, place)
            labels += own
            rows += [row] * len(own)
            places += [place] * len(own)
        if not texts["text"]:
            raise UsageError(f"{path} is empty: it has no examples.")
        labels = as_names(labels, places, label_map=data.label_map, known=known)
        names = known or sorted_names(labels)
        with self.unknown_labels(origin):
            require_known(labels, places, names)
        warn_of_similar(names, path)
        number = number_of(names)
        table = np.zeros((len(texts["text"]), len(names)), np.int32)
        table[rows, [number[label] for label in labels]] = 1
        return Examples(texts["text"], texts.get("text_pair"), table, tuple(names))

    def _labels_of(self, row: Mapping[str, Any], known: Sequence[str], place: str) -> list[str]:
        column = self.data.label
        if column not in row and known:
            return [name for name in known if _indicator(row, name, column, place)]
        value, where = value_of(row, column, "label", place), f"{place}: the label {column!r}"
        if isinstance(value, str):
            value = [name.strip() for name in value.split("|") if name.strip()]
        if not isinstance(value, (list, tuple)):
            raise UsageError(
                f"{where} must be a list of names, or names separated by |, got {shortened(value)}."
            )
        return [check_label(name, where) for name in value]

    def read_unlabelled(self, path: Source) -> Examples:
        """Reads the columns ``data.text`` and ``data.text_pair``."""
        return read_examples(path, text=self.data.text, text_pair=self.data.text_pair, label=None)

    def encode(self, tokenizer: Tokenizer, examples: Examples) -> Encoded:
        """Tokenizes the texts; the column ``labels`` is ``[examples, classes]``, 0 or 1."""
        return encode_texts(tokenizer, examples, self.data.max_length)

    def with_head(self, examples: Examples, head: Head) -> Examples:
        """Puts the classes of the examples in the order of ``head.names``.

        Examples:
            >>> from jaxbrewer.configs import DataConfig
            >>> examples = Examples(["x"], None, np.int32([[1, 0]]), ("cat", "dog"))
            >>> head = Head(("dog", "fox", "cat"))
            >>> MultiLabel(DataConfig(task="multi-label")).with_head(examples, head).labels
            array([[0, 0, 1]], dtype=int32)
        """
        labels = examples.labels
        if labels is not None:
            ordered = np.zeros((len(labels), len(head.names)), np.int32)
            ordered[:, [head.names.index(name) for name in examples.label_names]] = labels
            labels = np.where(_has_labels(labels)[:, None], ordered, np.int32(UNLABELLED))
        return dataclasses.replace(examples, labels=labels, label_names=head.names)

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Logits, and the binary cross-entropy of the labels, a mean over classes and examples."""
        import jax.numpy as jnp
        import optax

        from ...losses import masked_mean

        answer = {"logits": outputs["logits"], **shared_outputs(batch, outputs)}
        if "labels" in batch:
            has_labels = jnp.all(batch["labels"] >= 0, axis=-1)
            labels = jnp.where(has_labels[:, None], batch["labels"], 0).astype(jnp.float32)
            logits = outputs["logits"].astype(jnp.float32)
            loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean(-1)
            answer["losses"] = masked_mean(loss, has_labels)
        return answer

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The logits."""
        return {"logits": outputs["logits"]}, {}

    def measure(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Measure:
        """F1 at ``data.threshold``, mean average precision, mean binary cross-entropy in nats."""
        logits, labels = _labelled(examples, predictions)
        return measure_sets(logits, labels, self.data.threshold)

    def details(
        self, examples: Examples, encoded: Encoded, predictions: Predictions
    ) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each class."""
        logits, labels = _labelled(examples, predictions)
        predicted = np.exp(log_sigmoid(logits)) >= self.data.threshold
        return count_sets(predicted, labels == 1).by_class(examples.label_names)

    def agreement(
        self, examples: Examples, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """The share of equal decisions, and the binary KL divergence per class in nats."""
        threshold = self.data.threshold
        z_S, z_T = student.rows["logits"], teacher.rows["logits"]
        p, not_p = np.exp(log_sigmoid(z_T)), np.exp(log_sigmoid(-z_T))
        divergence = p * (log_sigmoid(z_T) - log_sigmoid(z_S))
        divergence += not_p * (log_sigmoid(-z_T) - log_sigmoid(-z_S))
        decisions = (np.exp(log_sigmoid(z_S)) >= threshold) == (p >= threshold)
        return means(label_agreement=decisions.mean(-1), kl_divergence=divergence.mean(-1))

    def linear_baseline(self, train: Examples, held_out: Examples) -> Predictions:
        """The margins of a linear support vector machine for each class, 0 at the threshold."""
        assert train.labels is not None
        texts, labels = first_labelled(train, _has_labels(train.labels))
        logits = linear_indicator_logits(texts, labels, joined_texts(held_out))
        share = np.clip(self.data.threshold, 1e-6, 1 - 1e-6)
        return Predictions({"logits": logits + np.log(share / (1 - share))})

    def decode(
        self, examples: Examples, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The classes whose probability reaches ``data.threshold``, and all probabilities."""
        for row in np.exp(log_sigmoid(predictions.rows["logits"])):
            chosen = row >= self.data.threshold
            yield {
                "labels": [name for name, is_in in zip(names, chosen, strict=True) if is_in],
                "probabilities": dict(zip(names, map(float, row), strict=True)),
            }


def _indicator(row: Mapping[str, Any], name: str, column: str, place: str) -> int:
    if name not in row:
        raise UsageError(
            f"{place}: neither a column {column!r} with a list of labels nor a column {name!r} "
            "with 0 or 1."
        )
    number = _INDICATORS.get(str(row[name]).lower())
    if number is None:
        raise UsageError(f"{place}: the label {name!r} must be 0 or 1, got {shortened(row[name])}.")
    return number


def _has_labels(labels: Int[np.ndarray, "examples classes"]) -> Bool[np.ndarray, " examples"]:
    return np.all(labels >= 0, axis=-1)


def _labelled(
    examples: Examples, predictions: Predictions
) -> tuple[Float[np.ndarray, "labelled classes"], Int[np.ndarray, "labelled classes"]]:
    assert examples.labels is not None
    known = _has_labels(examples.labels)
    return predictions.rows["logits"][known], examples.labels[known]


def measure_sets(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, "examples classes"],
    threshold: float,
) -> Measure:
    """Micro- and macro-F1, mean average precision, and mean binary cross-entropy in nats.

    A class has the F1 0 if it is neither true nor predicted, as in scikit-learn; the mean average
    precision is over the classes that some example has.

    Args:
        logits: The logits of labelled examples.
        labels: 1 for each class that an example has, else 0.
        threshold: The probability from which a class is predicted.

    Examples:
        >>> logits, labels = np.array([[2.0, -1.0], [1.0, 3.0]]), np.array([[1, 0], [0, 1]])
        >>> metrics = measure_sets(logits, labels, 0.5).metrics()
        >>> {name: round(value, 4) for name, value in metrics.items()}
        {'micro_f1': 0.8, 'macro_f1': 0.8333, 'mean_average_precision': 1.0, 'loss': 0.4505}
    """
    nats = -np.where(labels == 1, log_sigmoid(logits), log_sigmoid(-logits)).mean(-1)

    def metrics_of(of: Statistics) -> dict[str, Any]:
        counts = count_sets(of["predicted"], of["true"])
        some = np.flatnonzero(counts.true)
        precisions = [average_precision(of["logits"][:, c], of["true"][:, c]) for c in some]
        return {
            "micro_f1": counts.micro_f1,
            "macro_f1": counts.f1.mean(),
            "mean_average_precision": np.mean(precisions) if precisions else 0.0,
            "loss": of["nats"].mean(),
        }

    predicted = np.exp(log_sigmoid(logits)) >= threshold
    statistics = {"logits": logits, "true": labels == 1, "predicted": predicted, "nats": nats}
    return Measure(statistics, metrics_of)


def average_precision(
    scores: Float[np.ndarray, " examples"], is_true: Bool[np.ndarray, " examples"]
) -> float:
    r"""The area under the steps of precision over recall; equal scores are one step.

    .. math:: \sum_k (R_k - R_{k-1}) P_k

    Args:
        scores: Larger for examples that are more likely to be true.
        is_true: Which are true; at least one.

    Examples:
        >>> average_precision(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, False, True, False]))
        0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(is_true[order])[ends]
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * hits / (ends + 1)) / hits[-1])


def log_sigmoid(logits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The logarithm of the sigmoid, in float64."""
    return -np.logaddexp(0.0, -np.float64(logits))
