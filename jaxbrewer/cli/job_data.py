"""The texts of a job: reads and tokenizes them, and orders their classes as a model does."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..text import Encoded, Examples, Tokenizer, read_examples
from ..text.read import UnknownLabelError
from ..text.tokenize import TOKENIZER_FILES
from .config import DataConfig, Job
from .model_directory import ModelDirectory
from .output import abbreviate


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


class DistillationTexts(NamedTuple):
    """The training texts of a distillation.

    Attributes:
        labelled: The texts with labels.
        unlabelled: The texts without labels, if there are any.
        classes: The teacher's classes.
        tokenizer: The teacher's tokenizer.
        texts: All of them, labelled ones first, with their tokens.
    """

    labelled: Examples
    unlabelled: Examples | None
    classes: Classes
    tokenizer: Tokenizer
    texts: Texts


def read_distillation_texts(job: Job, source: ModelDirectory) -> DistillationTexts:
    """The training texts of a job's distillation.

    Raises:
        UsageError: They cannot be read, or the teacher cannot classify them.
    """
    data = job.config.data
    path = str(job.need("data.train", "the file with the labelled texts"))
    labelled = read_labelled(path, data, data.labels)
    classes = classes_to_distil(source, labelled, job)
    labelled = in_order(labelled, classes.names)
    unlabelled = None if data.unlabelled is None else read_unlabelled(data.unlabelled, data)
    examples = labelled if unlabelled is None else labelled.with_unlabelled(unlabelled)
    tokenizer = Tokenizer(source.directory)
    return DistillationTexts(
        labelled, unlabelled, classes, tokenizer, tokenize(tokenizer, examples, data)
    )


def read_labelled(
    path: str, data: DataConfig, names: Sequence[str] | None = None, *, origin: str = "data.train"
) -> Examples:
    """Reads texts and labels.

    Args:
        path: The file.
        data: The names of the columns.
        names: The classes; by default those that the file has.
        origin: Where ``names`` come from if not from ``data.labels``, for messages.

    Raises:
        UsageError: The file cannot be read, or has a label that is not in ``names``.
    """
    try:
        return read_examples(
            path, text=data.text, text_pair=data.text_pair, label=data.label, labels=names
        )
    except UnknownLabelError as error:
        source = "data.labels" if data.labels else origin
        remedy = "add it there" if data.labels else "to have more, list all of them in data.labels"
        raise UsageError(f"{error} The classes are those of {source}: {remedy}.") from None


def read_unlabelled(path: str, data: DataConfig) -> Examples:
    """Reads texts and no labels."""
    return read_examples(path, text=data.text, text_pair=data.text_pair, label=None)


def tokenize(tokenizer: Tokenizer, examples: Examples, data: DataConfig) -> Texts:
    """Tokenizes examples."""
    encoded = tokenizer.encode(examples.texts, examples.pairs, max_length=data.max_length)
    return Texts(examples, encoded)


def classes_to_train(source: ModelDirectory, examples: Examples) -> Classes:
    """The model's own classes if the examples have the same ones, else a new head's."""
    if len(examples.label_names) < 2:
        raise UsageError(
            f"data.train has one class, {abbreviate(examples.label_names)}: a classifier needs two."
        )
    if source.has_head and set(source.labels) == set(examples.label_names):
        return Classes(source.labels)
    return Classes(examples.label_names, new_head=True)


def classes_of(source: ModelDirectory, examples: Examples, data: DataConfig) -> Classes:
    """The classes of a trained model, under the names that the examples use.

    The classes of a model without class names are those of ``data.labels``, in this order, or else
    numbers.

    Raises:
        UsageError: The examples have other classes.
    """
    found, count = examples.label_names, len(source.labels)
    if count < 2:
        raise UsageError(f"{source.directory} has {count} classes: a classifier needs two.")
    if set(found) <= set(source.labels):
        return Classes(source.labels)
    if source.labels_are_numbers:
        if data.labels and len(found) == count:
            return Classes(found)
        numbers = tuple(map(str, range(count)))
        if set(found) <= set(numbers):
            return Classes(numbers)
    raise UsageError(
        f"{source.directory} has other classes ({count}: {abbreviate(source.labels)}) than the "
        f"data ({len(found)}: {abbreviate(found)})."
    )


def classes_to_distil(source: ModelDirectory, examples: Examples, job: Job) -> Classes:
    """The teacher's classes.

    Raises:
        UsageError: The teacher cannot classify the examples.
    """
    remedy = f"Run `jaxbrewer train {job.path}` first, which trains a teacher on data.train."
    if not source.has_head:
        raise UsageError(f"{source.directory} has no classification head. {remedy}")
    try:
        return classes_of(source, examples, job.config.data)
    except UsageError as error:
        raise UsageError(f"{error} {remedy}") from None


def in_order(examples: Examples, names: tuple[str, ...]) -> Examples:
    """Numbers the classes of the examples as in ``names``.

    Examples:
        >>> examples = Examples(["x", "y"], None, np.array([0, 1]), ("cat", "dog"))
        >>> in_order(examples, ("dog", "fox", "cat")).labels
        array([2, 0], dtype=int32)
    """
    assert examples.labels is not None
    numbers = np.array([names.index(name) for name in examples.label_names], np.int32)
    return dataclasses.replace(examples, labels=numbers[examples.labels], label_names=names)


def require_same_tokenizer(tokenizer: Tokenizer, source: ModelDirectory, *texts: Examples) -> None:
    """Raises :class:`UsageError` if a model's own tokenizer gives other tokens for the texts.

    A model without a tokenizer is assumed to use this one.
    """
    if not any(os.path.isfile(source.directory / name) for name in ("tokenizer.json", "vocab.txt")):
        return
    other = Tokenizer(source.directory)
    for examples in texts:
        both = [
            reader.encode(examples.texts, examples.pairs, max_length=512)
            for reader in (tokenizer, other)
        ]
        if other.vocab_size != tokenizer.vocab_size or not np.array_equal(
            both[0].input_ids, both[1].input_ids
        ):
            raise UsageError(
                f"{source.directory} has another tokenizer (of {other.vocab_size:,} tokens) than "
                f"the teacher (of {tokenizer.vocab_size:,}): both must read the same tokens."
            )


def fingerprints(model: Path, encoded: Encoded) -> dict[str, str]:
    """Digests of the tokenizer of a model directory and of tokenized texts."""
    tokenizer, data = hashlib.sha256(), hashlib.sha256()
    for name in TOKENIZER_FILES:
        if os.path.isfile(model / name):
            tokenizer.update(name.encode() + (model / name).read_bytes())
    for array in (encoded.input_ids, encoded.token_type_ids, encoded.offsets):
        data.update(array.tobytes())
    return {"tokenizer": tokenizer.hexdigest()[:16], "data": data.hexdigest()[:16]}


def require_matching_cache(job: Job, model: Path, encoded: Encoded) -> None:
    """Raises :class:`UsageError` if the job's cache is of another tokenizer or of other texts."""
    directory = job.config.training.cache_dir
    if isinstance(directory, str):
        from ..cache import Manifest

        manifest = Manifest.find(directory)  # perhaps of a build that the training resumes
        if manifest is not None:
            manifest.require_built_from(directory, fingerprints(model, encoded))
