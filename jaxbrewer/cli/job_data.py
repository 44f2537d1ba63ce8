"""The texts of a job: reads and tokenizes them, and fits their labels to a model's head."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..models.model_directory import ModelDirectory
from ..text import Encoded, Task, Tokenizer
from ..text.tasks import Head, Texts
from ..text.tokenize import TOKENIZER_FILES
from .config import Job


class DistillationTexts(NamedTuple):
    """The training texts of a distillation.

    Attributes:
        labelled: The examples with labels.
        unlabelled: The examples without labels, if there are any.
        head: The teacher's head.
        tokenizer: The teacher's tokenizer.
        texts: All of them, labelled ones first, with their tokens.
    """

    labelled: Any
    unlabelled: Any | None
    head: Head
    tokenizer: Tokenizer
    texts: Texts


def read_distillation_texts(job: Job, task: Task[Any], source: ModelDirectory) -> DistillationTexts:
    """The training texts of a job's distillation.

    Raises:
        UsageError: They cannot be read, or the teacher's head does not fit them.
    """
    data = job.config.data
    path = str(job.need("data.train", "the file with the labelled texts"))
    task.require_problem(source)
    labelled = task.read(path)
    try:
        head = task.head_to_use(source, labelled)
    except UsageError as error:
        raise UsageError(
            f"{error} Run `jaxbrewer train {job.path}` first, which trains a teacher on data.train."
        ) from None
    examples = labelled = task.with_head(labelled, head)
    unlabelled = None if data.unlabelled is None else task.read_unlabelled(data.unlabelled)
    if unlabelled is not None:
        examples = labelled.with_unlabelled(unlabelled)
    tokenizer = Tokenizer(source.directory)
    texts = Texts(examples, task.encode(tokenizer, examples))
    return DistillationTexts(labelled, unlabelled, head, tokenizer, texts)


class HeldOut(NamedTuple):
    """The texts that score models: at each checkpoint, and in the end."""

    validation: Texts | None
    test: Texts | None


def read_held_out(job: Job, task: Task[Any], head: Head, tokenizer: Tokenizer) -> HeldOut:
    """The examples of ``data.validation`` and ``data.test``, numbered as a head does.

    Raises:
        UsageError: They cannot be read, or a training without checkpoints is to be validated.
    """
    data, training = job.config.data, job.config.training
    if data.validation and training.ckpt_frequency == 0 and training.ckpt_steps is None:
        raise UsageError("data.validation needs checkpoints, but training.ckpt_frequency is 0.")

    def read(path: str | None) -> Texts | None:
        if path is None:
            return None
        examples = task.with_head(task.read(path, names=head.names or None), head)
        return Texts(examples, task.encode(tokenizer, examples))

    return HeldOut(read(data.validation), read(data.test))


def require_same_tokenizer(
    tokenizer: Tokenizer, source: ModelDirectory, task: Task[Any], examples: Any
) -> None:
    """Raises :class:`UsageError` if a model's own tokenizer gives other tokens for the texts.

    A model without a tokenizer is assumed to use this one.
    """
    if not any(os.path.isfile(source.directory / name) for name in ("tokenizer.json", "vocab.txt")):
        return
    other = Tokenizer(source.directory)
    both = [task.encode(reader, examples) for reader in (tokenizer, other)]
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
