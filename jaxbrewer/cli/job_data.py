"""The texts of a job: read, their classes in the order of a model, tokenized."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..text import Encoded, Examples, Tokenizer, read_examples
from .config import DataConfig, Job
from .model_directory import Card
from .output import some


class Classes(NamedTuple):
    """The classes of a job.

    Attributes:
        names: In the order of the model's outputs.
        new_head: Whether the model needs a new head for them.
    """

    names: tuple[str, ...]
    new_head: bool = False


class Texts(NamedTuple):
    """Examples and their tokens."""

    examples: Examples
    encoded: Encoded

    @property
    def labels(self) -> np.ndarray:
        """The class numbers, int32."""
        assert self.examples.labels is not None
        return self.examples.labels


class ToDistil(NamedTuple):
    """The training texts of a distillation.

    Attributes:
        labelled: Those with labels.
        unlabelled: Those without, if there are any.
        classes: The teacher's classes.
        tokenizer: The teacher's tokenizer.
        texts: All of them, in this order, with their tokens.
    """

    labelled: Examples
    unlabelled: Examples | None
    classes: Classes
    tokenizer: Tokenizer
    texts: Texts


def texts_to_distil(job: Job, card: Card) -> ToDistil:
    """The training texts of a job's distillation.

    Raises:
        UsageError: They cannot be read, or the teacher cannot classify them.
    """
    data = job.config.data
    path = str(job.need("data.train", "the file with the labelled texts"))
    labelled = read_labelled(path, data, data.labels)
    classes = classes_to_distil(card, labelled, job)
    labelled = in_order(labelled, classes.names)
    unlabelled = None if data.unlabelled is None else read_unlabelled(data.unlabelled, data)
    examples = labelled if unlabelled is None else labelled.with_unlabelled(unlabelled)
    tokenizer = Tokenizer(card.directory)
    return ToDistil(labelled, unlabelled, classes, tokenizer, tokenize(tokenizer, examples, data))


def read_labelled(path: str, data: DataConfig, names: Sequence[str] | None = None) -> Examples:
    """Texts and labels of a file; without ``names`` the classes are those of the file."""
    return read_examples(
        path, text=data.text, text_pair=data.text_pair, label=data.label, labels=names
    )


def read_unlabelled(path: str, data: DataConfig) -> Examples:
    """Texts of a file."""
    return read_examples(path, text=data.text, text_pair=data.text_pair, label=None)


def tokenize(tokenizer: Tokenizer, examples: Examples, data: DataConfig) -> Texts:
    """The examples with their tokens."""
    encoded = tokenizer.encode(examples.texts, examples.pairs, max_length=data.max_length)
    return Texts(examples, encoded)


def classes_to_train(card: Card, examples: Examples) -> Classes:
    """The model's own classes if they are those of the examples, else these and a new head."""
    if card.has_head and set(card.labels) == set(examples.label_names):
        return Classes(card.labels)
    return Classes(examples.label_names, new_head=True)


def classes_of(card: Card, examples: Examples, data: DataConfig) -> Classes:
    """The classes of a trained model, under the names that the examples have for them.

    A model whose classes have no names, only numbers, takes those of ``data.labels`` in their
    order, or numbers.

    Raises:
        UsageError: The examples have other classes.
    """
    found, count = examples.label_names, len(card.labels)
    if set(found) <= set(card.labels):
        return Classes(card.labels)
    if card.labels_are_numbers:
        if data.labels and len(found) == count:
            return Classes(found)
        numbers = tuple(map(str, range(count)))
        if set(found) <= set(numbers):
            return Classes(numbers)
    raise UsageError(
        f"{card.directory} has other classes ({count}: {some(card.labels)}) than the data "
        f"({len(found)}: {some(found)})."
    )


def classes_to_distil(card: Card, examples: Examples, job: Job) -> Classes:
    """The teacher's classes.

    Raises:
        UsageError: The teacher cannot classify the examples.
    """
    remedy = f"Run `jaxbrewer train {job.path}` first, which trains a teacher on data.train."
    if not card.has_head:
        raise UsageError(f"{card.directory} has no classification head. {remedy}")
    try:
        return classes_of(card, examples, job.config.data)
    except UsageError as error:
        raise UsageError(f"{error} {remedy}") from None


def in_order(examples: Examples, names: tuple[str, ...]) -> Examples:
    """The examples with their classes numbered as in ``names``.

    Examples:
        >>> examples = Examples(["x", "y"], None, np.array([0, 1]), ("cat", "dog"))
        >>> in_order(examples, ("dog", "fox", "cat")).labels
        array([2, 0], dtype=int32)
    """
    assert examples.labels is not None
    numbers = np.array([names.index(name) for name in examples.label_names], np.int32)
    return dataclasses.replace(examples, labels=numbers[examples.labels], label_names=names)


def refuse_other_tokenizer(tokenizer: Tokenizer, card: Card, *texts: Examples) -> None:
    """Raises :class:`UsageError` if a model's own tokenizer reads the texts in another way.

    A model without a tokenizer is taken to have been made with this one.
    """
    if not any((card.directory / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        return
    other = Tokenizer(card.directory)
    for examples in texts:
        both = [
            reader.encode(examples.texts, examples.pairs, max_length=512)
            for reader in (tokenizer, other)
        ]
        if other.vocab_size != tokenizer.vocab_size or not np.array_equal(
            both[0].input_ids, both[1].input_ids
        ):
            raise UsageError(
                f"{card.directory} has another tokenizer (of {other.vocab_size:,} tokens) than the "
                f"teacher (of {tokenizer.vocab_size:,}): both must read the same tokens."
            )
