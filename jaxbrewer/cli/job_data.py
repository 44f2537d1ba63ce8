"""The texts of a job: reads and tokenizes them, and fits their labels to a model's head."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..configs import DataConfig
from ..errors import UsageError
from ..models.model_directory import ModelDirectory
from ..text import Encoded, Task, Tokenizer
from ..text.probabilities import Columns, read_probabilities
from ..text.rows import read_rows
from ..text.tasks import Head, Predictions, Texts
from ..text.tokenize import TOKENIZER_FILES
from .config import Job


class DistillationTexts(NamedTuple):
    """The training texts of a distillation.

    Attributes:
        labelled: The examples with labels, if there are any.
        unlabelled: The examples without labels, if there are any.
        head: The teacher's head, or the student's where the teacher's outputs are in the files.
        tokenizer: The tokenizer.
        texts: All of them, labelled ones first, with their tokens.
        untrained: Why the teacher must be trained first; empty if it has the head of the task.
    """

    labelled: Any | None
    unlabelled: Any | None
    head: Head
    tokenizer: Tokenizer
    texts: Texts
    untrained: str = ""

    @property
    def described(self) -> Any:
        """The examples that describe the classes."""
        return self.unlabelled if self.labelled is None else self.labelled


def read_distillation_texts(
    job: Job, task: Task[Any], source: ModelDirectory, *, needs_head: bool = True
) -> DistillationTexts:
    """The training texts of a job's distillation.

    Args:
        job: The job.
        task: Its task.
        source: The teacher, or the student that learns from ``data.probabilities``.
        needs_head: Whether the teacher must have the head of the task; otherwise it may be the
            model from which ``train`` starts.

    Raises:
        UsageError: They cannot be read, or the head does not fit them.
    """
    data, outside = job.config.data, outside_columns(job.config.data)
    untrained = ""
    if outside is None:
        task.require_problem(source)
        labelled, unlabelled = _read_texts(job, task, None)
        try:
            head = task.head_to_use(source, unlabelled if labelled is None else labelled)
        except UsageError as error:
            if job.task:  # `train` trains the teacher of one task
                raise
            untrained = (
                f"{error} Run `jaxbrewer train {job.path}` first, which trains a teacher on "
                "data.train."
            )
            if needs_head or labelled is None or len(job.config.teachers):
                raise UsageError(untrained) from None
            head = task.head_to_train(source, labelled)
    else:
        path = data.train if data.unlabelled is None else data.unlabelled
        names = task.label_names or (None if path is None else outside.names_in(path))
        labelled, unlabelled = _read_texts(job, task, names)
        if labelled is None and names is None:
            raise UsageError(
                f"data.{outside.field} holds lists: name the classes in their order in data.labels."
            )
        named: Any = unlabelled if labelled is None else labelled
        named = dataclasses.replace(named, label_names=tuple(names or named.label_names))
        head = task.head_to_train(source, named)
    labelled = None if labelled is None else task.with_head(labelled, head)
    if unlabelled is not None and labelled is None:
        unlabelled = task.with_head(unlabelled, head)
    examples: Any = unlabelled if labelled is None else labelled
    if labelled is not None and unlabelled is not None:
        examples = task.join(labelled, unlabelled)
    tokenizer = Tokenizer(source.directory)
    encoded = task.encode(tokenizer, examples)
    if outside is not None:
        paths = [path for path in (data.train, data.unlabelled) if path is not None]
        logits = [read_probabilities(path, outside, head.names) for path in paths]
        columns = {**encoded.columns, TEACHER_OUTPUTS: np.concatenate(logits)}
        encoded = dataclasses.replace(encoded, columns=columns)
    texts = Texts(examples, encoded)
    return DistillationTexts(labelled, unlabelled, head, tokenizer, texts, untrained)


TEACHER_OUTPUTS = "teacher_cache"
"""The entry of batches with the outputs of a teacher that is not run."""


def outside_columns(data: DataConfig) -> Columns | None:
    """Where the files hold the teacher's probabilities, if they do.

    Raises:
        UsageError: The task has no classes with probabilities.
    """
    is_log = data.probabilities is None
    where = data.log_probabilities if is_log else data.probabilities
    if where is None:
        return None
    field = "log_probabilities" if is_log else "probabilities"
    if data.task != "classification":
        raise UsageError(f"data.{field} needs data.task 'classification', got {data.task!r}.")
    return Columns(field, where, is_log, data.label_map)


def outside_predictions(data: DataConfig, path: str, names: Sequence[str]) -> Predictions | None:
    """What a teacher from elsewhere said about the texts of a file, if the file has it."""
    outside = outside_columns(data)
    row = next((row for _, row in read_rows(path)), None)
    if outside is None or row is None or not outside.are_in(row):
        return None
    return Predictions({"logits": read_probabilities(path, outside, names)})


def _read_texts(
    job: Job, task: Task[Any], names: Sequence[str] | None
) -> tuple[Any | None, Any | None]:
    """The examples of ``data.train`` and ``data.unlabelled``; one of them may be missing."""
    data, config = job.config.data, job.config.distillation
    labelled = None if data.train is None else task.read(data.train, names=names)
    unlabelled = None if data.unlabelled is None else task.read_unlabelled(data.unlabelled)
    if labelled is None and unlabelled is None:
        job.need("data.train", "the file with the labelled texts")
    weight: Any = config.hard_label_weight
    if config.hard_label_weight_scheduler != "none":
        weight = config.hard_label_weight_scheduler
    if labelled is None and weight != 0 and not task.learns_from_text:
        raise UsageError(
            f"{job.path} has no {job.name_of('data.train')}, whose labels "
            f"distillation.hard_label_weight {weight} needs: give the file, or set the weight to 0."
        )
    return labelled, unlabelled


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


class StudentTokens(NamedTuple):
    """The student's tokenizer, and the training texts in its tokens.

    Attributes:
        tokenizer: The tokenizer.
        encoded: The tokens; ``None`` if they are the teacher's.
    """

    tokenizer: Tokenizer
    encoded: Encoded | None


def read_student_tokens(
    job: Job, task: Task[Any], tokenizer: Tokenizer, texts: Texts
) -> StudentTokens:
    """Tokenizes the training texts for the student, if it has a tokenizer of its own.

    That is ``student.tokenizer``, or the one in ``student.path``.

    Args:
        job: The job.
        task: The task.
        tokenizer: The teacher's tokenizer.
        texts: The texts in the teacher's tokens.

    Raises:
        UsageError: The tokens are others than the teacher's, and the task compares them.
    """
    student = job.config.student
    directory = student.tokenizer
    if directory is None and student.path is not None and has_tokenizer(Path(student.path)):
        directory = student.path
    if directory is None:
        return StudentTokens(tokenizer, None)
    own = Tokenizer(directory)
    encoded = task.encode(own, texts.examples)
    same = np.array_equal(encoded.input_ids, texts.encoded.input_ids)
    if same and own.vocab_size == tokenizer.vocab_size:
        return StudentTokens(own, None)
    if task.reads_same_tokens:
        raise UsageError(
            f"{directory} has another tokenizer (of {own.vocab_size:,} tokens) than "
            f"the teacher (of {tokenizer.vocab_size:,}): both must read the same tokens."
        )
    return StudentTokens(own, encoded)


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a tokenizer."""
    return any(os.path.isfile(directory / name) for name in ("tokenizer.json", "vocab.txt"))


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
