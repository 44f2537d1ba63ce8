"""Prepares the distillation of a job with several tasks: texts, teachers, the student of all."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..errors import UsageError
from ..models.model_directory import ModelDirectory
from ..text import Task, Tokenizer, task_of
from ..text.model import check_fits
from .config import Job
from .fitting import ToValidate
from .job_data import DistillationTexts, HeldOut, read_distillation_texts, read_held_out
from .messages import report_wait
from .preparation import Baseline, first_checkpoint, require_baseline
from .run_paths import baseline_run, find_teacher, student_run

if TYPE_CHECKING:
    from ..models import TransformerModel
    from ..models.shared_encoder import SharedEncoder
    from ..run.plan import Plan
    from ..text.multi_task import MultiTaskTraining


class TaskTexts(NamedTuple):
    """A task of a job and its texts.

    Attributes:
        job: The task as a job of its own.
        task: The task.
        source: The directory of its teacher.
        data: The training texts.
        held_out: The texts that score the models.
    """

    job: Job
    task: Task[Any]
    source: ModelDirectory
    data: DistillationTexts
    held_out: HeldOut


class PreparedTasks(NamedTuple):
    """A distillation of several tasks that is ready to run.

    Attributes:
        tasks: The tasks.
        teachers: The teacher of each.
        student: The student, with a head for each.
        training: The training.
    """

    tasks: dict[str, TaskTexts]
    teachers: "dict[str, TransformerModel]"
    student: "SharedEncoder"
    training: "MultiTaskTraining"

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all models."""
        return next(iter(self.tasks.values())).data.tokenizer


def prepare_tasks(job: Job) -> PreparedTasks:
    """Reads the texts of all tasks and loads all models.

    Raises:
        UsageError: The job is incomplete, or its parts do not fit each other.
    """
    config = job.config
    require_only_tasks(job)
    report_wait("reading the texts")
    tasks = {name: _read(own) for name, own in job.of_tasks().items()}
    _require_equal_tokens(tasks)

    report_wait("loading JAX and the models")
    from ..devices.mesh import on_device
    from ..text.multi_task import TaskToTrain, make_multi_task_distillation
    from . import job_models

    with on_device(config.training):
        teachers = {
            name: job_models.load(own.task, own.source, own.data.head)
            for name, own in tasks.items()
        }
        student = _make_student(job, tasks, teachers)
        for name, own in tasks.items():
            for who, model in (("teacher", teachers[name]), ("student", student.models[name])):
                data, texts = own.data, [own.data.texts.encoded]
                check_fits(f"{who} of {name}", model.config, data.tokenizer, own.task.data, texts)
        training = make_multi_task_distillation(
            {
                name: TaskToTrain(
                    own.task,
                    teachers[name],
                    own.data.texts.encoded,
                    config.tasks[name].distillation,
                )
                for name, own in tasks.items()
            },
            student,
            config.distillation,
            config.student.optimization,
            student_run(config.training).with_directories(config.training),
        )
    return PreparedTasks(tasks, teachers, student, training)


TasksBaseline: TypeAlias = "Baseline[MultiTaskTraining, SharedEncoder]"
"""The student of several tasks trained on labels alone."""


def prepare_tasks_baseline(
    job: Job, prepared: PreparedTasks, plan: "Plan", validation: ToValidate
) -> "TasksBaseline":
    """Prepares the same student for as many optimizer steps on the labels of the tasks alone.

    Its checkpoints are as many steps apart as the first two of the distillation.

    Args:
        job: The job.
        prepared: The distillation.
        plan: Its length.
        validation: The callback of both.
    """
    from ..text.multi_task import TaskToTrain, make_multi_task_fine_tuning

    config, tasks = job.config, prepared.tasks
    student = _make_student(job, tasks, prepared.teachers)
    run = baseline_run(config.training)
    settings = run.with_directories(config.training)
    first = first_checkpoint(prepared.training, plan)
    training = make_multi_task_fine_tuning(
        {
            name: TaskToTrain(
                own.task, None, own.task.encode(own.data.tokenizer, own.data.labelled)
            )
            for name, own in tasks.items()
        },
        student,
        dataclasses.replace(config.student.optimization, num_steps=plan.total_steps),
        dataclasses.replace(settings, ckpt_steps=first),
    )
    return Baseline(training, student, run, training.check(validation))


def require_only_tasks(job: Job, *, baseline: bool = False) -> None:
    """Raises :class:`UsageError` for sections that several tasks do not have.

    Args:
        job: The job.
        baseline: Whether each task needs labels.
    """
    config = job.config
    given = [
        name
        for name, is_given in (
            ("data", config.data != type(config.data)()),
            ("teacher", config.teacher.path is not None),
            ("teachers", bool(config.teachers)),
        )
        if is_given
    ]
    if given:
        raise UsageError(f"{job.path}: {given[0]} stands in each of tasks, not beside them.")
    for name, own in job.of_tasks().items():
        data = own.config.data
        if data.probabilities is not None or data.log_probabilities is not None:
            raise UsageError(f"tasks.{name}: data.probabilities is not used with several tasks.")
        if baseline:
            require_baseline(own)
    if config.training.cache_dir is not None or config.distillation.is_caching_logits:
        raise UsageError(
            "Several tasks have no teacher cache: leave out training.cache_dir and "
            "distillation.is_caching_logits."
        )
    for field in ("tokenizer", "frozen"):
        if getattr(config.student, field):
            raise UsageError(f"student.{field} is not used with several tasks.")


@contextmanager
def errors_of_task(name: str) -> Iterator[None]:
    """Puts the name of the task, if it has one, before the message of a :class:`UsageError`."""
    try:
        yield
    except UsageError as error:
        if not name:
            raise
        raise UsageError(f"tasks.{name}: {error}") from None


def _read(job: Job) -> TaskTexts:
    """Reads the texts of a task, as if it were the only one of the job."""
    with errors_of_task(job.task):
        task, source = task_of(job.config.data), find_teacher(job)
        data = read_distillation_texts(job, task, source)
        task = task.for_training(data.described, data.head)
        held_out = read_held_out(job, task, data.head, data.tokenizer)
        return TaskTexts(job, task, source, data, held_out)


def _make_student(
    job: Job, tasks: Mapping[str, TaskTexts], teachers: "Mapping[str, TransformerModel]"
) -> "SharedEncoder":
    """The student of a job, with a head like that of each teacher."""
    from ..models.shared_encoder import SharedEncoder
    from . import job_models

    config, seed = job.config.student, job.config.training.seed
    return SharedEncoder(
        {
            name: job_models.make_student(
                own.task, config, teachers[name], own.data.head, own.data.tokenizer, seed=seed
            )
            for name, own in tasks.items()
        }
    )


def _require_equal_tokens(tasks: Mapping[str, TaskTexts]) -> None:
    """Raises :class:`UsageError` if the teachers read other tokens than the first one."""
    (name, first), *others = tasks.items()
    for other, own in others:
        examples = first.data.texts.examples
        encoded = first.task.encode(Tokenizer(own.source.directory), examples)
        if not np.array_equal(encoded.input_ids, first.data.texts.encoded.input_ids):
            raise UsageError(
                f"{own.source.directory} of the task {other!r} has another tokenizer than "
                f"{first.source.directory} of {name!r}: all must read the same tokens."
            )
