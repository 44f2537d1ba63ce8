"""Prepares the distillation of a job: its texts, teachers, student, and the student beside it."""

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from ..errors import UsageError
from ..models.model_directory import ModelDirectory, read_text_model
from ..registry import KD_LOSS_MAP, loss_and_parameters
from ..text import Task, Tokenizer, task_of
from ..text.model import check_fits
from ..text.tasks import Head, Texts
from .config import Job
from .job_data import (
    DistillationTexts,
    HeldOut,
    StudentTokens,
    outside_columns,
    read_distillation_texts,
    read_held_out,
    read_student_tokens,
    require_matching_cache,
)
from .messages import report_wait
from .output import print_line
from .run_paths import (
    RunPaths,
    baseline_run,
    find_teachers,
    named_teachers,
    refuse_tasks,
    student_run,
)

if TYPE_CHECKING:
    from ..models import TransformerModel
    from ..run.plan import Plan
    from ..text.multi_task import MultiTaskTraining
    from ..text.training import TextTraining
    from ..text.validation import Validation

Training = TypeVar("Training")
Student = TypeVar("Student")


class Teacher(NamedTuple):
    """A teacher that is run.

    Attributes:
        name: Its row in tables.
        source: Its directory.
        model: The model.
    """

    name: str
    source: ModelDirectory
    model: "TransformerModel"


class PreparedDistillation(NamedTuple):
    """A distillation that is ready to run, with its models and texts.

    Attributes:
        task: The task.
        training: The training.
        teachers: The teachers; none if the files hold what a teacher said.
        student: The student.
        data: The training texts, in the teachers' tokens.
        held_out: The texts that score the student, in its tokens.
        student_tokens: The student's tokenizer, and the training texts in its tokens.
    """

    task: Task[Any]
    training: "TextTraining"
    teachers: tuple[Teacher, ...]
    student: "TransformerModel"
    data: DistillationTexts
    held_out: HeldOut
    student_tokens: StudentTokens

    @property
    def head(self) -> Head:
        """The student's head."""
        return self.data.head

    @property
    def texts(self) -> Texts:
        """All training texts, in the teachers' tokens."""
        return self.data.texts

    @property
    def test_of_teachers(self) -> Texts | None:
        """The test texts in the teachers' tokens."""
        test = self.held_out.test
        if test is None or self.student_tokens.encoded is None:
            return test
        return Texts(test.examples, self.task.encode(self.data.tokenizer, test.examples))


def prepare_distillation(job: Job, *, needs_teacher: bool = True) -> PreparedDistillation:
    """Reads the texts of a job and loads all models.

    Args:
        job: The job.
        needs_teacher: Whether the teacher must be trained; otherwise, a teacher that is not trained
            yet is the model from which ``train`` starts, with a new head.

    Raises:
        UsageError: The job is incomplete, or its parts do not fit each other.
    """
    config = job.config
    refuse_tasks(job)
    task = task_of(config.data)
    is_outside = outside_columns(config.data) is not None
    sources: tuple[ModelDirectory, ...] = (
        () if is_outside else find_teachers(job, is_trained=needs_teacher)
    )
    start = _student_without_teacher(job) if is_outside else sources[0]
    _require_student(job)
    task.require_losses(config.distillation)
    report_wait("reading the texts")
    data = read_distillation_texts(job, task, start, needs_head=needs_teacher)
    task = task.for_training(data.described, data.head)
    tokens = StudentTokens(data.tokenizer, None)
    if not is_outside:
        tokens = read_student_tokens(job, task, data.tokenizer, data.texts)
    held_out = read_held_out(job, task, data.head, tokens.tokenizer)
    _require_equal_teachers(task, sources, data)
    if len(sources) == 1:
        require_matching_cache(job, sources[0].directory, data.texts.encoded)

    report_wait("loading JAX and the models")
    from ..devices.mesh import on_device, on_teacher_device
    from ..text.training import make_distillation
    from . import job_models

    settings = config.teacher.settings if data.untrained else {}
    with on_device(config.training):
        with on_teacher_device(config.training):
            teachers = tuple(
                Teacher(name, source, job_models.load(task, source, data.head, settings=settings))
                for name, source in named_teachers(sources).items()
            )
        for name, _, model in teachers:
            check_fits(name, model.config, data.tokenizer, config.data, [data.texts.encoded])
        student = _make_student(job, task, teachers, data.head, tokens.tokenizer)
        encoded = data.texts.encoded if tokens.encoded is None else tokens.encoded
        check_fits("student", student.config, tokens.tokenizer, config.data, [encoded])
        models = [teacher.model for teacher in teachers]
        training = make_distillation(
            task,
            models[0] if len(models) == 1 else models or None,
            job_models.freeze_parts(student, config.student.frozen, "student.frozen"),
            data.texts.encoded,
            _distillation_of(job),
            config.student.optimization,
            student_run(config.training).with_directories(config.training),
            student_encoded=tokens.encoded,
        )
    return PreparedDistillation(task, training, teachers, student, data, held_out, tokens)


def print_untrained(job: Job, prepared: PreparedDistillation) -> None:
    """Prints a line if checks ran on a teacher that is not trained yet."""
    if prepared.data.untrained:
        print_line(
            f"The teacher is not trained yet: these checks gave it a new head. "
            f"{prepared.data.untrained}"
        )


class Baseline(NamedTuple, Generic[Training, Student]):
    """The student trained on labels alone, beside the distilled one.

    Attributes:
        training: The training.
        student: Another copy of the student.
        run: Where it writes.
        plan: Its length, that of the distillation.
    """

    training: Training
    student: Student
    run: RunPaths
    plan: "Plan"


def require_baseline(job: Job) -> None:
    """Raises :class:`UsageError` if a job has no labels for a baseline."""
    if job.config.data.train is None:
        name = job.name_of("data.train")
        raise UsageError(
            f"--baseline trains on labels, but {job.path} has no {name}: give the file with "
            f"the labelled texts there, or as --{name}."
        )


def prepare_baseline(
    job: Job, prepared: PreparedDistillation, plan: "Plan", validation: "Validation | None"
) -> "Baseline[TextTraining, TransformerModel]":
    """Prepares the same student for as many optimizer steps on labels alone.

    Its checkpoints are as many steps apart as the first two of the distillation.

    Args:
        job: The job.
        prepared: The distillation.
        plan: Its length.
        validation: The callback of both.
    """
    from ..text.training import make_fine_tuning
    from . import job_models

    config, data, task = job.config, prepared.data, prepared.task
    tokenizer = prepared.student_tokens.tokenizer
    encoded = task.encode(tokenizer, data.labelled)
    student = _make_student(job, task, prepared.teachers, data.head, tokenizer)
    run = baseline_run(config.training)
    training = run.with_directories(config.training)
    first = first_checkpoint(prepared.training, plan)
    training = dataclasses.replace(training, ckpt_steps=first, cache_dir=None)
    steps = dataclasses.replace(config.student.optimization, num_steps=plan.total_steps)
    frozen = job_models.freeze_parts(student, config.student.frozen, "student.frozen")
    fine_tuning = make_fine_tuning(task, frozen, encoded, steps, training)
    return Baseline(fine_tuning, student, run, fine_tuning.check(validation))


def first_checkpoint(training: "TextTraining | MultiTaskTraining", plan: "Plan") -> int | None:
    """The first step after which a training saves a checkpoint; ``None`` if it saves none."""
    config = training.trainer.train_config
    return next(iter(plan.saved_steps(config))) if config.ckpt_frequency else None


def _make_student(
    job: Job, task: Task[Any], teachers: tuple[Teacher, ...], head: Head, tokenizer: Tokenizer
) -> "TransformerModel":
    from . import job_models

    seed, student = job.config.training.seed, job.config.student
    teacher = teachers[0].model if teachers else None
    return job_models.make_student(task, student, teacher, head, tokenizer, seed=seed)


def _distillation_of(job: Job) -> Any:
    """The losses; the weights of several teachers are those of ``teachers``."""
    config, teachers = job.config.distillation, job.config.teachers
    weights = [teacher.weight for teacher in teachers]
    if len(set(weights)) < 2 or config.teacher_weights is not None:
        return config
    return dataclasses.replace(config, teacher_weights=weights)


def _require_equal_teachers(
    task: Task[Any], sources: tuple[ModelDirectory, ...], data: DistillationTexts
) -> None:
    """Raises :class:`UsageError` if several teachers have other classes, or read other tokens."""
    for source in sources[1:]:
        head = task.head_to_use(source, data.described)
        if head.names != data.head.names:
            raise UsageError(
                f"{source.directory} has other classes than {sources[0].directory}, or the same "
                f"in another order: {', '.join(head.names)}, not {', '.join(data.head.names)}."
            )
        encoded = task.encode(Tokenizer(source.directory), data.texts.examples)
        if not np.array_equal(encoded.input_ids, data.texts.encoded.input_ids):
            raise UsageError(
                f"{source.directory} has another tokenizer than {sources[0].directory}: several "
                "teachers must read the same tokens."
            )


def _student_without_teacher(job: Job) -> ModelDirectory:
    """The directory of a student whose teacher's outputs are in the files.

    Raises:
        UsageError: It needs a teacher, or the losses compare more than distributions.
    """
    config = job.config
    field = "log_probabilities" if config.data.probabilities is None else "probabilities"
    if config.teacher.path is not None or config.teachers:
        given = "teacher.path" if config.teacher.path is not None else "teachers"
        raise UsageError(f"data.{field} takes the place of a teacher: leave out {given}.")
    path = job.need("student.path", f"the directory of the student, as data.{field} has no model")
    distillation = config.distillation
    if distillation.intermediate_matches or distillation.custom_matches:
        raise UsageError(
            f"data.{field} has no hidden states: leave out distillation.intermediate_matches and "
            "custom_matches."
        )
    if config.training.cache_dir is not None or distillation.is_caching_logits:
        raise UsageError(
            f"data.{field} has no model to cache: leave out training.cache_dir and "
            "distillation.is_caching_logits."
        )
    loss, _ = loss_and_parameters(distillation.kd_loss_type)
    if isinstance(loss, str) and not KD_LOSS_MAP.row(loss).between_distributions:
        fits = [name for name in KD_LOSS_MAP if KD_LOSS_MAP.row(name).between_distributions]
        raise UsageError(
            f"distillation.kd_loss_type {loss!r} compares logits, which data.{field} determines "
            f"only up to a constant: use {', '.join(map(repr, fits))}."
        )
    return read_text_model(path)


def _require_student(job: Job) -> None:
    student = job.config.student
    if (student.path, student.layers, student.size) == (None, None, None):
        raise UsageError(
            f"{job.path} has no student: give one of student.path (a directory), student.layers "
            "(of the teacher, such as [0, 2, 4]) and student.size (such as {num_hidden_layers: 2})."
        )
