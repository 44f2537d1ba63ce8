"""A trained model with its task and tokenizer, loaded from a directory to predict."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs import DataConfig
from ..errors import UsageError
from ..models.model_directory import ModelDirectory, read_text_model
from .rows import Rows
from .tasks import TASKS, Predictions, Task, Texts, task_class, task_of
from .tokenize import Encoded, Tokenizer, saved_max_length, saved_stride
from .tokenizer_files import Truncation

if TYPE_CHECKING:
    from ..models.config import TransformerConfig

Text = str | Mapping[str, Any]
"""A text, or a row with the columns that the task reads."""


def load(directory: str | Path, task: str | None = None, **data: Any) -> "TextModel":
    r"""Loads a trained model with its task and tokenizer.

    Args:
        directory: A Hugging Face directory, such as ``<output_dir>/student/model`` of a job.
        task: The name of the task; by default the one that the model's head was trained for.
        data: Fields of :class:`~jaxbrewer.configs.DataConfig`: the columns of rows, ``max_length``
            (by default that of its training, or else 128, or less if the model reads less), or
            ``labels``, the names of the classes of a model that has none.

    Raises:
        UsageError: The directory holds no model for a task, the model or the tokenizer is damaged,
            or they do not fit each other.

    Examples:
        >>> import tempfile
        >>> from flax import nnx
        >>> from jaxbrewer.models import BertConfig, BertForSequenceClassification, save
        >>> directory = Path(tempfile.mkdtemp())
        >>> config = BertConfig(vocab_size=6, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=2, labels=("cat", "dog"))
        >>> save(BertForSequenceClassification(config, rngs=nnx.Rngs(0)), directory)
        >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "it", "purrs"]
        >>> _ = (directory / "vocab.txt").write_text("\n".join(vocabulary))
        >>> model = load(directory)
        >>> [prediction] = model.predict(["it purrs"])
        >>> sorted(prediction), sorted(prediction["probabilities"])
        (['label', 'probabilities'], ['cat', 'dog'])
        >>> model.logits(["it purrs", "it"]).shape
        (2, 2)
    """
    source = read_text_model(directory)
    return load_source(source, make_task(source, {**data, **({"task": task} if task else {})}))


def make_task(source: ModelDirectory, data: Mapping[str, Any]) -> Task[Any]:
    """The task of a trained model.

    Args:
        source: The model's directory.
        data: Fields of :class:`~jaxbrewer.configs.DataConfig`. Without ``task`` it is the task that
            the model's head was trained for.

    Raises:
        UsageError: A field cannot be used, or the model has no head for the task.
    """
    saved = _saved_fields(source.directory, source.longest)
    task = task_of(DataConfig.from_dict({"task": find_task(source), **saved, **data}))
    task.require_head(source)
    return task


def truncation_of(directory: str | Path, head: str, longest: int | None) -> Truncation:
    """How jaxbrewer cuts the texts of a saved model, unless a setting says otherwise.

    Args:
        directory: The directory of its tokenizer.
        head: Its head, a key of :data:`jaxbrewer.models.TASKS`.
        longest: The largest number of tokens that it reads; ``None`` if it has no limit.
    """
    name = next((name for name in TASKS if task_class(name).head == head), DataConfig.task)
    return task_of(
        DataConfig.from_dict({"task": name, **_saved_fields(directory, longest)})
    ).truncation


def _saved_fields(directory: str | Path, longest: int | None) -> dict[str, Any]:
    """The settings of ``data`` that a directory keeps."""
    trained_on = saved_max_length(directory) or DataConfig.max_length
    max_length, stride = min(trained_on, longest or trained_on), saved_stride(directory)
    if stride is None:  # what short windows have room for
        stride = min(DataConfig.stride, max(0, max_length - 6) // 2)
    return {"max_length": max_length, "stride": stride}


def find_task(source: ModelDirectory) -> str:
    """The name of the first task in the table that the model's head was trained for.

    Without one it is the default of ``data.task``, whose check of the head says what is missing.
    """
    found = (name for name in TASKS if task_class(name).is_task_of(source))
    return next(found, DataConfig.task)


def load_source(source: ModelDirectory, task: Task[Any]) -> "TextModel":
    """Loads a model for a task that fits its head."""
    from ..models import load as load_model

    model = load_model(source.directory, task.head, **task.settings_of(source))
    tokenizer = Tokenizer(source.directory)
    names, given = source.labels, tuple(task.data.labels or ())
    if source.labels_are_numbers and len(given) == len(names):
        names = given
    check_fits("model", model.config, tokenizer, task.data, [])
    return TextModel(task, model, tokenizer, names)


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A model, its task and its tokenizer.

    Attributes:
        task: The task.
        model: The model, a Flax NNX module in evaluation mode.
        tokenizer: The tokenizer.
        names: The names of the outputs of its head, in order.
    """

    task: Task[Any]
    model: Any
    tokenizer: Tokenizer
    names: tuple[str, ...] = ()

    def predict(
        self,
        texts: Sequence[Text],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
    ) -> list[dict[str, Any]]:
        """Predicts for each text.

        Texts of more than ``task.data.max_length`` tokens are cut.

        Args:
            texts: Texts, or rows with the columns that the task reads.
            pairs: The second text of each, for a task on pairs.
            batch_size: Texts per batch.

        Returns:
            For each text what the task predicts, such as a label and probabilities.

        Raises:
            UsageError: A text is empty or no string, or a row lacks a column.
        """
        if not len(texts):
            return []
        task = self._task_for(pairs)
        examples = _examples(task, texts, pairs)
        return list(self.decode(examples, batch_size=batch_size, task=task))

    def logits(
        self,
        texts: Sequence[Text],
        pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
    ) -> Any:
        """The logits for each text; takes the arguments of :meth:`predict`.

        Returns:
            Float ``[texts, outputs]``; of a task on tokens a list of ``[tokens, outputs]``.

        Raises:
            UsageError: As :meth:`predict`; or the task does not keep logits.
        """
        task = self._task_for(pairs)
        examples = _examples(task, texts, pairs)
        (_, encoded), predictions = self.run(examples, batch_size=batch_size, task=task)
        if "logits" in predictions.rows:
            return predictions.rows["logits"]
        if "logits" in predictions.tokens:
            return np.split(predictions.tokens["logits"], encoded.offsets[1:-1])
        raise UsageError(f"The task {task.name!r} does not keep logits: use predict.")

    def decode(
        self, examples: Any, *, batch_size: int = 64, task: Task[Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """What the model predicts for examples, as the task reads them."""
        task = task or self.task
        (_, encoded), predictions = self.run(examples, batch_size=batch_size, task=task)
        return task.decode(examples, encoded, predictions, self.names)

    def run(
        self, examples: Any, *, batch_size: int = 64, task: Task[Any] | None = None
    ) -> tuple[Texts, Predictions]:
        """Tokenizes examples and runs the model over them."""
        from .inference import run_in_shapes

        task = task or self.task
        encoded = task.encode(self.tokenizer, examples)
        check_fits("model", self.model.config, self.tokenizer, task.data, [encoded])
        forward, variables = self._forward
        predictions = run_in_shapes(
            forward, variables, encoded, batch_size=batch_size, longest=task.data.max_length
        )
        return Texts(examples, encoded), predictions

    @functools.cached_property
    def _forward(self) -> tuple[Any, Any]:
        """The compiled function, which is kept between calls, and its variables."""
        from ..forward.as_model import as_model
        from .inference import make_forward

        return make_forward(self.task, self.model), as_model(self.model).variables

    def _task_for(self, pairs: Sequence[str] | None) -> Task[Any]:
        """The task, which also reads a second text if there are pairs."""
        data = self.task.data
        if pairs is None or data.text_pair is not None:
            return self.task
        return type(self.task)(dataclasses.replace(data, text_pair="text_pair"))


def _examples(task: Task[Any], texts: Sequence[Text], pairs: Sequence[str] | None) -> Any:
    if isinstance(texts, str):
        raise UsageError("predict takes a list of texts, got one text: give [text].")
    if pairs is not None and len(pairs) != len(texts):
        raise UsageError(f"{len(texts)} texts with {len(pairs)} second texts.")
    rows = [dict(text) if isinstance(text, Mapping) else {task.data.text: text} for text in texts]
    for row, pair in zip(rows, pairs or (), strict=False):
        row[str(task.data.text_pair)] = pair
    return task.read_unlabelled(Rows(tuple(enumerate(rows)), "texts"))


def check_fits(
    who: str,
    config: "TransformerConfig",
    tokenizer: Tokenizer,
    data: DataConfig,
    encoded: Sequence[Encoded],
) -> None:
    """Raises :class:`UsageError` if a model cannot read the tokens.

    Args:
        who: The model's name in messages.
        config: The model's config.
        tokenizer: The tokenizer.
        data: The maximum length.
        encoded: The tokens.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise UsageError(
            f"The {who} has a vocab_size of {config.vocab_size:,}, but the tokenizer has "
            f"{tokenizer.vocab_size:,} tokens."
        )
    longest = config.longest_input
    if longest is not None and data.max_length > longest:
        raise UsageError(
            f"data.max_length {data.max_length} is more than the {who} can read: its "
            f"max_position_embeddings allow {longest} tokens."
        )
    kinds = max((int(part.token_type_ids.max()) + 1 for part in encoded), default=1)
    known = getattr(config, "type_vocab_size", 0)
    if known and kinds > known:
        raise UsageError(
            f"The tokens are of {kinds} types (first and second text), but the {who} has a "
            f"type_vocab_size of {known}."
        )
