"""``jaxbrewer distill`` for a job with several tasks: one student with a head for each."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..models.model_directory import ModelDirectory, read_text_model
from ..run.results import Scores, TrainingResult
from ..text import Task, Tokenizer, task_of
from ..text.model import check_fits
from .config import Job, TaskConfig
from .job_data import DistillationTexts, HeldOut, read_distillation_texts, read_held_out
from .job_facts import Facts, describe_losses, describe_origin, describe_texts, optimizer_fact
from .messages import report_wait
from .output import print_facts, print_line
from .results import save_results
from .run_paths import student_run
from .score_table import print_evaluation

if TYPE_CHECKING:
    from ..models import TransformerModel
    from ..text.multi_task import MultiTaskTraining


class PreparedTask(NamedTuple):
    """A task of a job: its texts and its teacher."""

    job: Job
    task: Task[Any]
    source: ModelDirectory
    data: DistillationTexts
    held_out: HeldOut


def distill_tasks(job: Job, *, dry_run: bool = False, is_first: bool = True) -> None:
    """Distils the teachers of all tasks into one student and saves a model for each task.

    Args:
        job: The job.
        dry_run: Whether to stop after all checks.
        is_first: Whether this process, of several, is the one that saves.

    Raises:
        UsageError: The job is incomplete, or its parts do not fit each other.
    """
    config, run = job.config, student_run(job.config.training)
    _require_only_tasks(job)
    if is_first:
        used = None if config.student.path is None else Path(config.student.path)
        run.require_writable(config.training, used=used)
    report_wait("reading the texts")
    tasks = {name: _prepare(job, name, section) for name, section in config.tasks.items()}
    first = next(iter(tasks.values()))
    _require_equal_tokens(tasks)

    report_wait("loading JAX and the models")
    from ..devices.mesh import on_device
    from ..models.shared_encoder import SharedEncoder
    from ..text.multi_task import TaskToDistil, make_multi_task_distillation
    from . import job_models

    with on_device(config.training):
        teachers, students = {}, {}
        seed, tokenizer = config.training.seed, first.data.tokenizer
        for name, own in tasks.items():
            head = own.data.head
            teacher = teachers[name] = job_models.load(own.task, own.source, head)
            students[name] = job_models.make_student(
                own.task, config.student, teacher, head, tokenizer, seed=seed
            )
            for who, model in (("teacher", teacher), ("student", students[name])):
                encoded = [own.data.texts.encoded]
                check_fits(f"{who} of {name}", model.config, tokenizer, own.task.data, encoded)
        student = SharedEncoder(students)
        training = make_multi_task_distillation(
            {
                name: TaskToDistil(
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
            run.with_directories(config.training),
        )
        report_wait("tracing the first step")
        plan = training.check()
        facts = _facts_of(job, tasks, teachers, student, training)
        print_facts(facts, is_result=dry_run)
        if dry_run:
            return print_line("All checks passed. Nothing was trained or written.")
        if is_first:
            run.remove_model(config.training)
        steps = training.train().history.get("step", np.zeros(0))
        if not is_first:
            return None
        rows: dict[str, Scores] = {}
        for name, own in tasks.items():
            model = student.models[name]
            job_models.save(model, tokenizer, run.model / name, own.task.data)
            rows |= _score(name, own, teachers[name], model, run.model / name)
        outcome = TrainingResult(
            steps=int(steps.max(initial=0)),
            planned_steps=plan.total_steps,
            best_step=None,
            validation=[],
        )
        save_results(job, first.task, run, rows, outcome, role="student")
    return print_line(f"The students are saved in {run.model}: {', '.join(tasks)}.")


def _prepare(job: Job, name: str, section: TaskConfig) -> PreparedTask:
    """Reads the texts of a task, as if it were the only one of the job."""
    distillation = section.distillation or job.config.distillation
    config = dataclasses.replace(
        job.config,
        tasks={},
        data=section.data,
        teacher=section.teacher,
        distillation=distillation,
    )
    own = job._replace(config=config)
    try:
        task = task_of(section.data)
        source = read_text_model(own.need("teacher.path", "the directory of the teacher"))
        data = read_distillation_texts(own, task, source)
        task = task.for_training(data.described, data.head)
        return PreparedTask(
            own, task, source, data, read_held_out(own, task, data.head, data.tokenizer)
        )
    except UsageError as error:
        raise UsageError(f"tasks.{name}: {error}") from None


def _require_only_tasks(job: Job) -> None:
    """Raises :class:`UsageError` for sections that several tasks do not have."""
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
    for name, section in config.tasks.items():
        if section.data.validation is not None:
            raise UsageError(f"tasks.{name}: data.validation is not used with several tasks.")
        if section.data.probabilities is not None or section.data.log_probabilities is not None:
            raise UsageError(f"tasks.{name}: data.probabilities is not used with several tasks.")
    if config.training.cache_dir is not None or config.distillation.is_caching_logits:
        raise UsageError(
            "Several tasks have no teacher cache: leave out training.cache_dir and "
            "distillation.is_caching_logits."
        )
    if config.student.tokenizer is not None:
        raise UsageError("student.tokenizer is not used with several tasks.")


def _require_equal_tokens(tasks: dict[str, PreparedTask]) -> None:
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


def _facts_of(
    job: Job,
    tasks: dict[str, PreparedTask],
    teachers: "dict[str, TransformerModel]",
    student: Any,
    training: "MultiTaskTraining",
) -> Facts:
    """The rows that the command prints before it starts."""
    from . import job_models

    config, facts = job.config, Facts()
    for name, own in tasks.items():
        data, distillation = own.data, own.job.config.distillation
        described = job_models.describe(teachers[name])
        texts = describe_texts(own.task.data, data.labelled, data.unlabelled, own.held_out.test)
        facts += [
            ("task", f"{name}: {own.task.name}"),
            ("  teacher", f"{own.source.directory}: {described}"),
            ("  texts", texts),
            *((f"  {fact}", value) for fact, value in own.task.describe(data.described)),
            ("  losses", describe_losses(distillation)),
        ]
    one = next(iter(student.models.values()))
    return [
        *facts,
        ("student", f"{describe_origin(job)}: {job_models.describe(one)}, a head for each task"),
        ("steps", f"{training.total_steps:,}, their tasks drawn by numbers of examples"),
        optimizer_fact(config.student.optimization, training.total_steps),
        ("devices", job_models.devices()),
        ("output", student_run(config.training).directory),
    ]


def _score(
    name: str,
    own: PreparedTask,
    teacher: "TransformerModel",
    student: "TransformerModel",
    directory: Path,
) -> dict[str, Scores]:
    """Scores the models of a task on its test texts, if it has any; rows ``<task>/<model>``."""
    from ..text.evaluation import ModelToScore, evaluation_of

    test, names = own.held_out.test, own.data.head.names
    if test is None:
        return {}
    models = {
        "teacher": ModelToScore(teacher, own.source.directory, test, names),
        "student": ModelToScore(student, directory, test, names),
    }
    evaluation = evaluation_of(own.task, models, report=report_wait)
    print_line(f"{name}:")
    print_evaluation(evaluation, file=str(own.task.data.test))
    return {f"{name}/{row}": scores for row, scores in evaluation["rows"].items()}
