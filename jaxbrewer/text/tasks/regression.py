"""Regression: a number for each text, or pair of texts."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...configs._base import LARGEST
from ...configs.auto import needs_of_task
from ...errors import UsageError
from ...models.model_directory import ModelDirectory
from ..labels import shortened
from ..linear_baseline import first_labelled, joined_texts, linear_numbers
from ..read import Examples, read_columns, read_examples
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from .classification import encode_texts, shared_outputs
from .measure import Measure, Statistics, means
from .task import Arrays, Head, Predictions, Task


class Regression(Task[Examples]):
    """A number for each text, or pair of texts."""

    name = "regression"
    head = "sequence-classification"
    problem_type = "regression"
    metrics = ("mse", "pearson", "spearman")
    main_metric = "mse"
    larger_is_better = False
    reads_same_tokens = False
    distillation_defaults = needs_of_task(name)
    kd_loss_types = ("mse",)

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Examples:
        """Reads ``data.text``, ``data.text_pair``, and a number in ``data.label``."""
        data = self.data
        columns = {"text": data.text, "text_pair": data.text_pair, "label": data.label}
        found, _ = read_columns(
            path,
            {field: column for field, column in columns.items() if column is not None},
            {"label": check_number},
        )
        numbers = np.array(found["label"], np.float32)
        return Examples(found["text"], found.get("text_pair"), numbers)

    def read_unlabelled(self, path: Source) -> Examples:
        """Reads the columns ``data.text`` and ``data.text_pair``."""
        return read_examples(path, text=self.data.text, text_pair=self.data.text_pair, label=None)

    def encode(self, tokenizer: Tokenizer, examples: Examples) -> Encoded:
        """Tokenizes the texts; the numbers are the column ``labels``, float32."""
        return encode_texts(tokenizer, examples, self.data.max_length)

    def describe(self, examples: Examples) -> list[tuple[str, str]]:
        """The range of the numbers."""
        numbers = examples.labels
        assert numbers is not None
        return [("labels", f"{numbers.min():g} to {numbers.max():g}, mean {numbers.mean():.4g}")]

    def head_to_train(self, source: ModelDirectory, examples: Examples) -> Head:
        """A head with one output: the model's, if it has one."""
        has_head = source.has_head(self.head)
        if has_head:
            self.require_problem(source)
        return self._head._replace(is_new=not has_head or len(source.labels) != 1)

    def head_to_use(self, source: ModelDirectory, examples: Examples) -> Head:
        """The trained model's head, which must have one output."""
        self.require_head(source)
        if len(source.labels) != 1:
            raise UsageError(
                f"{source.directory} has {len(source.labels)} outputs: a regression has one."
            )
        return self._head

    @property
    def _head(self) -> Head:
        return Head(settings={"num_labels": 1, "problem_type": self.problem_type})

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """The output as logits ``[batch, 1]``, and its squared error; NaN is no label."""
        import jax.numpy as jnp

        from ...losses import masked_mean

        answer = {"logits": outputs["logits"], **shared_outputs(batch, outputs)}
        if "labels" in batch:
            has_label = ~jnp.isnan(batch["labels"])
            labels = jnp.where(has_label, batch["labels"], 0)
            errors = outputs["logits"][:, 0].astype(jnp.float32) - labels
            answer["losses"] = masked_mean(errors**2, has_label)
        return answer

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The output."""
        return {"prediction": outputs["logits"][:, 0]}, {}

    def measure(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Measure:
        """Mean squared error, and the correlations of Pearson and of Spearman."""
        assert examples.labels is not None
        known = np.isfinite(examples.labels)
        return measure_numbers(predictions.rows["prediction"][known], examples.labels[known])

    def agreement(
        self, examples: Examples, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """The mean squared difference of the predictions."""
        gap = np.float64(student.rows["prediction"]) - teacher.rows["prediction"]
        return means(mse_from_teacher=gap**2)

    def linear_baseline(self, train: Examples, held_out: Examples) -> Predictions:
        """The predictions of a ridge regression."""
        assert train.labels is not None
        texts, labels = first_labelled(train, np.isfinite(train.labels))
        return Predictions({"prediction": linear_numbers(texts, labels, joined_texts(held_out))})

    def decode(
        self, examples: Examples, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The number."""
        for number in predictions.rows["prediction"]:
            yield {"prediction": float(number)}


def check_number(value: Any, where: str) -> float:
    """A number of a file, which may be text in CSV and TSV files.

    Raises:
        UsageError: It is missing, not finite in float32, or no number.

    Examples:
        >>> check_number("2.5", "x.csv:2"), check_number(1, "x.jsonl:1")
        (2.5, 1.0)
    """
    if value is None or value == "":
        raise UsageError(f"{where} is missing.")
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise UsageError(f"{where} must be a number, got {shortened(value)}.") from None
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise UsageError(f"{where} must be a finite number, got {shortened(value)}.")
    return number


def measure_numbers(
    predicted: Float[np.ndarray, " examples"], true: Float[np.ndarray, " examples"]
) -> Measure:
    """Mean squared error, and the correlations of Pearson and of Spearman, in float64.

    Examples:
        >>> predicted, true = np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])
        >>> metrics = measure_numbers(predicted, true).metrics()
        >>> {name: round(value, 4) for name, value in metrics.items()}
        {'mse': 0.3333, 'pearson': 0.982, 'spearman': 1.0}
    """

    def metrics_of(of: Statistics) -> dict[str, Any]:
        predicted, true = of["predicted"], of["true"]
        return {
            "mse": np.mean((predicted - true) ** 2),
            "pearson": pearson(predicted, true),
            "spearman": pearson(average_ranks(predicted), average_ranks(true)),
        }

    statistics = {"predicted": np.asarray(predicted, float), "true": np.asarray(true, float)}
    return Measure(statistics, metrics_of)


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """The correlation of two series; 0 if one of them is constant, where it is not defined.

    Examples:
        >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0])), 9)
        1.0
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1, 1))


def average_ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1; equal values have the mean of their ranks.

    Examples:
        >>> average_ranks(np.array([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
