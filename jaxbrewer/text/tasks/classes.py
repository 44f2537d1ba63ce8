"""What tasks whose labels are named classes share: reading names, heads, counts of hits."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import UsageError, abbreviate
from ...models.model_directory import ModelDirectory
from ..labels import UnknownLabelError
from .task import Dataset, Head, Predictions, Task


class Labelled(Dataset, Protocol):
    """Examples whose labels have names."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes in order."""
        ...


Data = TypeVar("Data", bound=Labelled)


class ClassesTask(Task[Data]):
    """A task whose head has an output for each of several named classes."""

    fewest_classes: ClassVar[int] = 2

    @contextmanager
    def unknown_labels(self, origin: str) -> Iterator[None]:
        """Adds to the error of an unknown label where the classes come from."""
        try:
            yield
        except UnknownLabelError as error:
            given = self.data.labels
            source = "data.labels" if given else origin
            remedy = "add it there" if given else "to have more, list all of them in data.labels"
            raise UsageError(f"{error} The classes are those of {source}: {remedy}.") from None

    def reorder(self, predictions: Predictions, order: Sequence[int]) -> Predictions:
        """The logits with their columns in another order."""
        chosen = list(order)
        return Predictions(
            *(
                {name: array[:, chosen] for name, array in arrays.items()}
                for arrays in (predictions.rows, predictions.tokens)
            )
        )

    def describe(self, examples: Data) -> list[tuple[str, str]]:
        """The names of the classes."""
        return [("classes", f"{len(examples.label_names)}: {abbreviate(examples.label_names)}")]

    def head_to_train(self, source: ModelDirectory, examples: Data) -> Head:
        """The model's own classes if the examples have the same ones, else a new head's."""
        names = examples.label_names
        if len(names) < self.fewest_classes:
            raise UsageError(
                f"data.train has one class, {abbreviate(names)}: a classifier needs two."
            )
        if source.has_head(self.head):
            self.require_problem(source)
            if set(source.labels) == set(names):
                return Head(source.labels, settings=self._settings)
        return Head(names, is_new=True, settings=self._settings)

    def head_to_use(self, source: ModelDirectory, examples: Data) -> Head:
        """The classes of a trained model, under the names that the examples use.

        The classes of a model without class names are those of ``data.labels``, in this order, or
        else numbers.
        """
        self.require_head(source)
        found, count = examples.label_names, len(source.labels)
        if count < self.fewest_classes:
            raise UsageError(f"{source.directory} has {count} classes: a classifier needs two.")
        if set(found) <= set(source.labels):
            return Head(source.labels, settings=self._settings)
        numbers = tuple(map(str, range(count)))
        if source.labels_are_numbers:
            if self.data.labels and len(found) == count:
                return Head(found, settings=self._settings)
            if set(found) <= set(numbers):
                return Head(numbers, settings=self._settings)
        hint = ""
        if set(found) <= set(numbers):
            pairs = ", ".join(map("{}: {}".format, numbers[:2], source.labels))
            hint = f" If these are their numbers, set data.label_map to {{{pairs}"
            hint += ", ...}." if count > 2 else "}."
        raise UsageError(
            f"{source.directory} has other classes ({count}: {abbreviate(source.labels)}) than the "
            f"data ({len(found)}: {abbreviate(found)}).{hint}"
        )

    @property
    def _settings(self) -> dict[str, Any]:
        return {} if self.problem_type is None else {"problem_type": self.problem_type}


def renumbered(
    labels: Int[np.ndarray, "*rest"], names: Sequence[str], head: Sequence[str]
) -> Int[np.ndarray, "*rest"]:
    """Class numbers of ``names`` as those of a head; negative ones stay.

    Examples:
        >>> renumbered(np.array([0, 1, -100]), ("cat", "dog"), ("dog", "fox", "cat")).tolist()
        [2, 0, -100]
    """
    numbers = np.array([head.index(name) for name in names], np.int32)
    return np.where(labels < 0, labels, numbers[np.maximum(labels, 0)])


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of decisions for each class.

    Attributes:
        correct: Those that are right, ``[classes]``.
        predicted: Those that a model makes.
        true: Those that it should make.
    """

    correct: Int[np.ndarray, " classes"]
    predicted: Int[np.ndarray, " classes"]
    true: Int[np.ndarray, " classes"]

    @property
    def precision(self) -> Float[np.ndarray, " classes"]:
        """The share of right ones among the predicted; 0 where nothing is predicted."""
        return _ratio(self.correct, self.predicted)

    @property
    def recall(self) -> Float[np.ndarray, " classes"]:
        """The share of the true ones that are predicted; 0 where nothing is true."""
        return _ratio(self.correct, self.true)

    @property
    def f1(self) -> Float[np.ndarray, " classes"]:
        """The harmonic mean of precision and recall; 0 where nothing is predicted or true."""
        return _ratio(2 * self.correct, self.predicted + self.true)

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions, whatever their class."""
        return float(_ratio(2 * self.correct.sum(), self.predicted.sum() + self.true.sum()))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that are predicted or true."""
        some = (self.predicted + self.true) > 0
        return float(self.f1[some].mean()) if some.any() else 0.0

    def by_class(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and number of true ones for each class.

        Examples:
            >>> counts = Counts(np.array([1, 0]), np.array([2, 0]), np.array([1, 1]))
            >>> counts.by_class(["cat", "dog"])["cat"]
            {'precision': 0.5, 'recall': 1.0, 'F1': 0.6666666666666666, 'count': 1.0}
        """
        columns = {
            "precision": self.precision,
            "recall": self.recall,
            "F1": self.f1,
            "count": self.true,
        }
        return {
            name: {metric: float(values[number]) for metric, values in columns.items()}
            for number, name in enumerate(names)
        }


def count_classes(
    predicted: Int[np.ndarray, " examples"], true: Int[np.ndarray, " examples"], classes: int
) -> Counts:
    """The counts of one class per example."""
    hits = true[predicted == true]
    return Counts(*(np.bincount(numbers, minlength=classes) for numbers in (hits, predicted, true)))


def count_sets(
    predicted: Bool[np.ndarray, "examples classes"], true: Bool[np.ndarray, "examples classes"]
) -> Counts:
    """The counts of several classes per example."""
    return Counts(*(each.sum(0) for each in (predicted & true, predicted, true)))


def _ratio(part: Any, whole: Any) -> Any:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
