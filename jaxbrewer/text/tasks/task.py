"""What a task on text is: its columns, its examples' encoding, its head, its metrics.

The commands know tasks only through :class:`Task`. Reading and checking need no JAX; the methods
that compute with arrays of a model import it.
"""

import abc
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Int

from ...configs import DataConfig, DistillationConfig
from ...errors import UsageError
from ...models.model_directory import ModelDirectory
from ...models.model_types import PROBLEM_TYPES
from ...registry import KD_LOSS_MAP, PACKAGED_KD_LOSSES, loss_and_parameters
from ...run.results import Diagrams
from ..documents import Documents
from ..labels import read_label_names
from ..loader import TextLoader, TokenLoader
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from ..tokenizer_files import Truncation
from .label_loss import PLAIN, make_label_loss
from .measure import Measure

Arrays = Mapping[str, Any]
"""Arrays by name: a batch, or the outputs of a model or an adaptor."""


class Dataset(Protocol):
    """The examples of a file, as a task reads them."""

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> Self:
        """Selects examples by number."""
        ...

    def with_unlabelled(self, more: Self) -> Self:
        """Appends examples without their labels."""
        ...


Data = TypeVar("Data", bound=Dataset)


class Head(NamedTuple):
    """What a model's head must be for a task.

    Attributes:
        names: The names of its outputs, in order; empty for a head whose outputs have no names.
        is_new: Whether the model gets new weights for it.
        settings: Fields of the model's config that the task sets.
    """

    names: tuple[str, ...] = ()
    is_new: bool = False
    settings: Mapping[str, Any] = MappingProxyType({})

    def is_of(self, source: ModelDirectory) -> bool:
        """Whether the head in the files of a model is this one, if there is a head."""
        wanted = self.settings.get("num_labels", len(source.labels))
        problem = self.settings.get("problem_type", source.problem_type)
        return (
            (not self.names or source.labels == self.names)
            and wanted == len(source.labels)
            and source.problem_type in (None, problem)
        )


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a task keeps of a model's outputs for the rows of an :class:`Encoded`, in their order.

    Attributes:
        rows: Arrays ``[rows, ...]`` by name.
        tokens: Arrays ``[tokens, ...]`` by name, without padding, as in ``Encoded.input_ids``.
    """

    rows: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Texts(NamedTuple):
    """Examples and their tokens.

    Attributes:
        examples: The examples, as a task reads them.
        encoded: Their tokens.
    """

    examples: Any
    encoded: Encoded


class Task(abc.ABC, Generic[Data]):
    """A task.

    A subclass is one module and one row of ``TASKS``; its class docstring is the line that help
    shows.

    Args:
        data: The columns and settings of a job.

    Attributes:
        name: The task's name in a job, ``data.task``.
        head: The head it needs of a model, a key of :data:`jaxbrewer.models.TASKS`.
        problem_type: What the logits of a sequence classification head must be.
        label_columns: Columns of an :class:`Encoded` that hold labels.
        distillation_defaults: Fields of ``DistillationConfig`` whose defaults in a job differ.
        kd_loss_types: Packaged losses between logits that fit the head; empty for all. Registered
            ones fit if they take one class.
        metrics: The names of the metrics that :meth:`score` computes; none where examples have
            nothing to be scored by.
        main_metric: The first of them, which chooses the best checkpoint and leads a table.
        larger_is_better: Whether a larger ``main_metric`` is better.
        reads_same_tokens: Whether teacher and student must have the same tokenizer.
        learns_from_text: Whether a model can be trained on texts without labels.
        keeps_both: Whether :meth:`keep` compares with ``"teacher_outputs"`` in the batch, because
            what :meth:`agreement` needs is too large to be kept.
        unscored: Why a table has no metrics, where :meth:`score` finds none.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    problem_type: ClassVar[str | None] = None
    label_columns: ClassVar[tuple[str, ...]] = ("labels",)
    distillation_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    kd_loss_types: ClassVar[tuple[str, ...]] = ()
    metrics: tuple[str, ...]
    main_metric: str
    larger_is_better: ClassVar[bool] = True
    reads_same_tokens: ClassVar[bool] = True
    learns_from_text: ClassVar[bool] = False
    keeps_both: ClassVar[bool] = False
    unscored: ClassVar[str] = "The examples have nothing to be scored by."

    def __init__(self, data: DataConfig):
        self.data = data
        self.label_loss = PLAIN

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names in ``data.labels``, which may be a file."""
        labels = self.data.labels
        if labels is None:
            return None
        return read_label_names(labels) if isinstance(labels, str) else tuple(labels)

    # Data

    @abc.abstractmethod
    def read(
        self, path: str, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Data:
        """Reads the labelled examples of a file.

        Args:
            path: The file.
            names: The names that labels may have; by default those of ``data.labels`` or, if that
                is not given, those in the file.
            origin: Where ``names`` come from, for messages.

        Raises:
            UsageError: The file cannot be read or does not fit the task.
        """

    @abc.abstractmethod
    def read_unlabelled(self, path: Source) -> Data:
        """Reads examples without their labels, of a file or of rows in memory."""

    @abc.abstractmethod
    def encode(self, tokenizer: Tokenizer, examples: Data) -> Encoded:
        """Tokenizes examples, with their labels as columns, at most ``data.max_length`` tokens."""

    def join(self, examples: Data, more: Data) -> Data:
        """Appends examples without labels to labelled ones."""
        return examples.with_unlabelled(more)

    def describe(self, examples: Data) -> list[tuple[str, str]]:
        """Rows for the table that a command prints about its data, a name and a value each."""
        return []

    def uncut(self, tokenizer: Tokenizer, examples: Data) -> Documents:
        """The tokens of whole documents, which log-probabilities made elsewhere are joined with.

        Raises:
            UsageError: The task has no such documents.
        """
        raise UsageError(
            f"data.task {self.name!r}: log-probabilities of tokens belong to language models."
        )

    def make_loader(self, encoded: Any, batch_size: int, **options: Any) -> TokenLoader:
        """The batches of a training; takes the arguments of :class:`~jaxbrewer.text.TextLoader`."""
        return TextLoader(encoded, batch_size, **options)

    @property
    def truncation(self) -> Truncation:
        """How :meth:`encode` cuts texts, which is saved with a model's tokenizer."""
        return Truncation(self.data.max_length)

    # The head

    def settings_of(self, source: ModelDirectory) -> Mapping[str, Any]:
        """Fields of its config that a model needs for the task, and that its files lack."""
        return {}

    @abc.abstractmethod
    def head_to_train(self, source: ModelDirectory, examples: Data) -> Head:
        """The head of a model that is trained on labelled examples."""

    @abc.abstractmethod
    def head_to_use(self, source: ModelDirectory, examples: Data) -> Head:
        """The head of a trained model that reads these examples.

        Raises:
            UsageError: The model has no such head, or its outputs do not fit the examples.
        """

    def with_head(self, examples: Data, head: Head) -> Data:
        """Numbers the labels of examples as a head does."""
        return examples

    def class_numbers(self, examples: Data) -> Int[np.ndarray, "..."] | None:
        """The class numbers of all labels; ``None`` if labels are no single classes."""
        return None

    def for_training(self, examples: Data, head: Head) -> Self:
        """The task with the loss on labels that ``data.class_weights`` and smoothing ask for.

        Args:
            examples: The training examples, numbered as the head does.
            head: The head.

        Raises:
            UsageError: The labels are no single classes, or a class is unknown.
        """
        if self.data.class_weights is None and not self.data.label_smoothing:
            return self
        labels = self.class_numbers(examples)
        if labels is None:
            field = "label_smoothing" if self.data.class_weights is None else "class_weights"
            raise UsageError(
                f"data.{field} needs labels that are single classes, which data.task "
                f"{self.name!r} has not."
            )
        task = copy.copy(self)
        task.label_loss = make_label_loss(self.data, head.names, labels)
        return task

    # The model's outputs

    @abc.abstractmethod
    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """The adaptor of a model with the task's head; see ``docs/adaptors.md``."""

    @abc.abstractmethod
    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """What predictions and metrics need of a model's outputs; traced by JAX.

        Returns:
            Arrays ``[batch, ...]``, and arrays ``[batch, length, ...]`` whose padding is dropped.
        """

    # Results

    @abc.abstractmethod
    def measure(self, examples: Data, encoded: Encoded, predictions: Predictions) -> Measure:
        """The metrics of a model's predictions, the main one first, for the labelled examples."""

    def agreement(
        self, examples: Data, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure | None:
        """How a student's predictions for all examples differ from a teacher's.

        ``None`` if the task has no such numbers.
        """
        return None

    def diagrams(self, examples: Data, encoded: Encoded, predictions: Predictions) -> Diagrams:
        """What pictures of a model's predictions for the labelled examples show, if any."""
        return {}

    def answers(
        self, student: Predictions, teacher: Predictions
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The confidence of a student's answers, and whether they are the teacher's.

        Returns:
            Float and bool ``[examples]``; ``None`` if a prediction is not one answer.
        """
        return None

    def linear_baseline(self, train: Data, held_out: Data) -> Predictions | None:
        """What a linear model on words, trained on labelled examples, predicts for others.

        ``None`` if the task has no such model. Only the main metric and macro-F1 mean something:
        the logits are margins, not log-probabilities.

        Args:
            train: Labelled examples.
            held_out: Other examples, numbered alike.

        Raises:
            UsageError: scikit-learn is not installed.
        """
        return None

    def reorder(self, predictions: Predictions, order: Sequence[int]) -> Predictions | None:
        """The predictions of a head whose outputs come in another order.

        Args:
            predictions: The predictions.
            order: For each output in the new order, its number in the old one.

        Returns:
            ``None`` if the task cannot reorder them.
        """
        return None

    def details(
        self, examples: Data, encoded: Encoded, predictions: Predictions
    ) -> dict[str, dict[str, float]]:
        """More metrics, for each class or kind of span, by its name; all have the same metrics."""
        return {}

    @abc.abstractmethod
    def decode(
        self, examples: Data, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """What a model predicts for each example, as an object for a line of JSON.

        Args:
            examples: The examples.
            encoded: Their tokens.
            predictions: The model's.
            names: The names of the head's outputs.
        """

    # Shared by tasks

    def score(self, examples: Data, encoded: Encoded, predictions: Predictions) -> dict[str, float]:
        """The values of :meth:`measure`."""
        return self.measure(examples, encoded, predictions).metrics()

    @classmethod
    def is_task_of(cls, source: ModelDirectory) -> bool:
        """Whether a model with the task's head was trained for this task.

        Tasks that share a head tell it by ``problem_type`` in ``config.json``, which without one
        is that of a classifier, or of a regression if the head has one output.
        """
        default = PROBLEM_TYPES[0 if len(source.labels) > 1 else -1]
        problem = source.problem_type or default
        return source.has_head(cls.head) and cls.problem_type in (None, problem)

    def require_head(self, source: ModelDirectory) -> None:
        """Raises :class:`UsageError` if a model has no head for the task."""
        if not source.has_head(self.head):
            raise UsageError(
                f"{source.directory} has no {self.head.replace('-', ' ')} head, which data.task "
                f"{self.name!r} needs."
            )
        self.require_problem(source)

    def require_problem(self, source: ModelDirectory) -> None:
        """Raises :class:`UsageError` if the logits of a model's head mean something else."""
        problem = source.problem_type
        if self.problem_type is not None and problem not in (None, self.problem_type):
            raise UsageError(
                f"{source.directory} has the problem_type {problem!r}, not that of data.task "
                f"{self.name!r}: it needs data.task {_TASK_OF_PROBLEM[problem]!r}."
            )

    def require_cacheable(self) -> None:
        """Raises :class:`UsageError` if the teacher's outputs cannot be cached."""

    def require_losses(self, config: DistillationConfig) -> None:
        """Raises :class:`UsageError` if a loss between logits does not fit the task's head."""
        name, _ = loss_and_parameters(config.kd_loss_type)
        fits = not self.kd_loss_types or name in self.kd_loss_types
        if not fits and name not in PACKAGED_KD_LOSSES:
            fits = KD_LOSS_MAP.row(name).least_classes < 2
        if not fits:
            raise UsageError(
                f"distillation.kd_loss_type {name!r} does not fit the logits of data.task "
                f"{self.name!r}, which are not those of a softmax: use "
                f"{' or '.join(map(repr, self.kd_loss_types))}."
            )


_TASK_OF_PROBLEM = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}
"""The task whose head has a ``problem_type``."""
