"""The models of a job: loads or builds them, checks them against the texts, and saves them.

Only this module of the command line imports JAX; commands import it after all other checks.
"""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx

from .. import models
from ..configs import DataConfig, IntermediateMatch
from ..data.batch_parts import student_part, teacher_part
from ..errors import UsageError, suggest, without_log_warnings
from ..export.card import directory_card, write_card
from ..forward.as_model import as_model
from ..forward.freezing import freeze
from ..models import TransformerModel, cut_layers
from ..models.config import TransformerConfig
from ..models.families import family_of
from ..models.model_directory import ModelDirectory, read_text_model
from ..models.pooling import limit_length
from ..step.teachers import make_teacher_step
from ..text import Task, Tokenizer
from ..text.evaluation import count_parameters
from ..text.tasks import Head, task_of
from ..text.training import TextTraining
from .job_sections import StudentConfig


def load(
    task: Task[Any],
    source: ModelDirectory,
    head: Head,
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
) -> TransformerModel:
    """Loads a model with the head of a task.

    Args:
        task: The task.
        source: The directory.
        head: What the head must be.
        settings: ``teacher.settings``: fields that replace those of ``config.json``.
        seed: Seed of weights that the file does not have.
    """
    _require_known("teacher.settings", settings, family_of(source.model_type).config)
    return models.load(
        source.directory,
        task.head,
        labels=head.names or None,
        new_head=head.is_new,
        seed=seed,
        **{**task.settings_of(source), **head.settings, **settings},
    )


def make_student(
    task: Task[Any],
    config: StudentConfig,
    teacher: TransformerModel | None,
    head: Head,
    tokenizer: Tokenizer,
    *,
    seed: int,
) -> TransformerModel:
    """Builds the student of a job, with a head like the teacher's.

    Args:
        task: The task.
        config: The job's student.
        teacher: The teacher, the first of several; ``None`` for a student with a path.
        head: The teacher's head.
        tokenizer: The student's tokenizer.
        seed: Seed of new weights.
    """
    if config.path is not None:
        source = read_text_model(config.path)
        is_new = not source.has_head(task.head) or not head.is_of(source)
        return load(task, source, head._replace(is_new=is_new), seed=seed)
    assert teacher is not None
    if config.layers is not None:
        return cut_layers(teacher, config.layers)
    made = _config_of_size(teacher.config, config.size or {}, tokenizer)
    make: Any = family_of(made.model_type).by_task[task.head]
    student: TransformerModel = make(made, rngs=nnx.Rngs(seed))
    return student


def check_student(
    task: Task[Any],
    config: StudentConfig,
    teacher: TransformerModel,
    head: Head,
    tokenizer: Tokenizer,
) -> TransformerModel | None:
    """Checks the student that a teacher will have once it is trained.

    Args:
        task: The task.
        config: The job's student.
        teacher: The model that is going to be trained.
        head: Its head.
        tokenizer: The student's tokenizer.

    Returns:
        The student, without arrays unless it has a directory; ``None`` if the job has no student.

    Raises:
        UsageError: It cannot be made of this teacher.
    """
    if (config.path, config.layers, config.size) == (None, None, None):
        return None

    def make() -> TransformerModel:
        return make_student(task, config, teacher, head, tokenizer, seed=0)

    with without_log_warnings():
        student: TransformerModel = nnx.eval_shape(make) if config.path is None else make()
    freeze_parts(student, config.frozen, "student.frozen")
    return student


def freeze_parts(model: TransformerModel, paths: Sequence[str], field: str) -> Any:
    """The model with the weights under some paths frozen.

    Args:
        model: The model.
        paths: The paths.
        field: The field of the job that holds them, for messages.

    Raises:
        UsageError: There are no weights under a path.
    """
    try:
        return freeze(model, *paths)
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from None


def _config_of_size(
    teacher: TransformerConfig, size: Mapping[str, Any], tokenizer: Tokenizer
) -> TransformerConfig:
    """The config of a student of ``student.size``.

    It has the teacher's fields, or of another family the family's; and the tokenizer's vocabulary
    if the teacher's does not have its size.
    """
    fields, family = dict(size), family_of(size.get("model_type", teacher.model_type))
    is_same = isinstance(teacher, family.config) and teacher.model_type in family.architectures
    _require_known("student.size", fields, family.config, also={"model_type"})
    if not is_same or tokenizer.vocab_size > teacher.vocab_size:
        fields = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id, **fields}
    if not is_same:
        known = {field.name for field in dataclasses.fields(family.config)}
        kept = ("num_labels", "labels", "problem_type", "pooling")
        fields |= {name: getattr(teacher, name) for name in kept if hasattr(teacher, name)}
        fields = {name: value for name, value in fields.items() if name in known}
    try:
        return dataclasses.replace(teacher, **fields) if is_same else family.config(**fields)
    except UsageError as error:
        raise UsageError(f"student.size: {error}") from None


def _require_known(
    where: str,
    fields: Mapping[str, Any],
    config: type[TransformerConfig],
    *,
    also: Set[str] = frozenset(),
) -> None:
    """Refuses fields that do not exist, and those that the data decides (the classes)."""
    names = {field.name for field in dataclasses.fields(config)}
    names -= {"num_labels", "labels", "model_type", "problem_type"} - also
    for name in fields:
        if name not in names:
            raise UsageError(f"{where} has no field {name!r}: {suggest(name, sorted(names))}")


def save(model: TransformerModel, tokenizer: Tokenizer, directory: Path, data: DataConfig) -> None:
    """Writes model, tokenizer and how texts are cut in Hugging Face's format, and a card."""
    tokenizer.save(directory, task_of(data).truncation)
    models.save(model, directory)
    limit_length(directory, data.max_length)
    write_card(directory, directory_card(directory))


def describe(model: TransformerModel) -> str:
    """One line about the model."""
    config = model.config
    return (
        f"{config.model_type} of {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{count_parameters(model):,} parameters"
    )


def describe_match(
    match: IntermediateMatch,
    task: Task[Any],
    training: TextTraining,
    teacher: TransformerModel,
    student: TransformerModel,
) -> str:
    """The two features that a match compares, with their shapes in the first batch."""
    batch = next(iter(training.loader))
    parts = teacher_part(batch), student_part(batch)

    def shapes(model: TransformerModel, layers: int | Sequence[int]) -> str:
        wrapped, part = as_model(model), parts[model is student]
        outputs = jax.eval_shape(make_teacher_step(wrapped, task.adaptor), wrapped.variables, part)
        chosen = [layers] if isinstance(layers, int) else layers
        return " & ".join(
            "x".join(map(str, outputs.features[match.feature][layer].shape)) for layer in chosen
        )

    through = "" if not match.proj else f"{match.proj[0]} {match.proj[1]}x{match.proj[2]} -> "
    weight = match.weight if match.weight_scheduler == "none" else match.weight_scheduler
    return (
        f"{match.name}: student {shapes(student, match.layer_S)} -> {through}"
        f"teacher {shapes(teacher, match.layer_T)}, weight {weight}"
    )


def devices() -> str:
    """The default devices."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}" if len(found) > 1 else found[0].device_kind
