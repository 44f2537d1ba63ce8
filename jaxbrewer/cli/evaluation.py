"""``jaxbrewer evaluate``: scores a model, or the models of a job, on a file."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..configs import TrainingConfig
from ..errors import UsageError
from ..json_files import write_json
from ..models.model_directory import ModelDirectory, read_text_model
from ..text import Task, Tokenizer, task_of
from ..text.model import check_fits, make_task
from ..text.tasks import Texts
from .config import Job, read_data_fields, read_job
from .job_data import outside_columns, outside_predictions
from .messages import report_progress, report_wait
from .output import print_line
from .run_paths import (
    baseline_run,
    find_teachers,
    named_teachers,
    student_run,
    teacher_run,
)
from .score_table import print_evaluation
from .task_preparation import errors_of_task, require_only_tasks

if TYPE_CHECKING:
    from ..text.evaluation import Evaluation


def evaluate(
    path: Path,
    given: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    teacher: Path | None = None,
    batch_size: int = 64,
    per_class: bool = False,
    selective: float | None = None,
    as_json: bool = False,
    output: Path | None = None,
) -> None:
    """Prints the scores of a model, or of the teacher and student of a job, on a file.

    Args:
        path: A model directory or a job.
        given: Fields of :class:`DataConfig` that replace those of a job; ``test`` is the file.
        overrides: Overrides of the job, or of the fields of ``data`` for a model.
        teacher: A model directory to compare the model with.
        batch_size: Texts per batch.
        per_class: Whether to print the metrics of each class too.
        selective: The rate of agreement with the teacher for which to find a threshold.
        as_json: Whether to print JSON in place of the table.
        output: A file for the JSON.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}.")
    if selective is not None and not 0 < selective < 1:
        raise UsageError(f"--selective must be between 0 and 1, got {selective}.")
    if os.path.isfile(path):
        if teacher is not None:
            raise UsageError(f"--teacher: {path} is a job, which names its teacher.")
        sets = _sets_of(read_job(path, overrides), given)
    else:
        source = read_text_model(path)
        fields = {**read_data_fields(path, overrides), **given}
        if "test" not in fields:
            raise UsageError(f"Give a file with labelled texts to evaluate {path} on.")
        models = {"model": source}
        if teacher is not None:
            models = {"teacher": read_text_model(teacher), "student": source}
        sets = {"": ToScore(make_task(source, fields), models, TrainingConfig())}
    if selective is not None and any("student" not in own.models for own in sets.values()):
        raise UsageError("--selective needs a student and a teacher: give --teacher DIR.")
    evaluations = {}
    for name, own in sets.items():
        with errors_of_task(name):
            evaluations[name] = _evaluate(own, batch_size, per_class, selective)
    files = {name: str(own.task.data.test) for name, own in sets.items()}
    contents = {name: {"file": files[name], **found} for name, found in evaluations.items()}
    content = contents.get("", {"tasks": contents})
    if output is not None:
        write_json(output, content)
    if as_json:
        print(json.dumps(content, indent=1, allow_nan=False))
        return
    for name, evaluation in evaluations.items():
        if name:
            print_line(f"{name}:")
        print_evaluation(evaluation, file=files[name])
        rows = evaluation["rows"].values()
        if not any(row["metrics"] or row.get("agreement") for row in rows):
            print_line(sets[name].task.unscored)


class ToScore(NamedTuple):
    """Models that are scored on one file.

    Attributes:
        task: The task, with the file in ``data.test``.
        models: The models by their rows in the table.
        training: Where they run.
    """

    task: Task[Any]
    models: Mapping[str, ModelDirectory]
    training: TrainingConfig


def _sets_of(job: Job, given: Mapping[str, Any]) -> dict[str, ToScore]:
    """What a job scores: by task, or without a name if it has no ``tasks``.

    Raises:
        UsageError: There is no file, or no model yet.
    """
    if not job.config.tasks:
        data = dataclasses.replace(job.config.data, **given)
        job = job._replace(config=dataclasses.replace(job.config, data=data))
        job.need("data.test", "a file with labelled texts")
        return {"": ToScore(task_of(data), _models_of(job), job.config.training)}
    if given:
        raise UsageError(
            f"{job.path} has several tasks: give --tasks.<task>.data.{next(iter(given))} in "
            "place of a file or flag for all of them."
        )
    require_only_tasks(job)
    jobs = job.of_tasks()
    tested = {name: own for name, own in jobs.items() if own.config.data.test is not None}
    for own in [] if tested else jobs.values():
        own.need("data.test", "a file with labelled texts")
    return {
        name: ToScore(task_of(own.config.data), _models_of(own), own.config.training)
        for name, own in tested.items()
    }


def _models_of(job: Job) -> dict[str, ModelDirectory]:
    training, models = job.config.training, {}
    student = student_run(training).of_task(job.task)
    baseline = baseline_run(training).of_task(job.task)
    has_student = student.has_model
    if outside_columns(job.config.data) is None and (
        teacher_run(training).has_model or has_student
    ):
        models = named_teachers(find_teachers(job))
    if baseline.has_model:
        models["baseline"] = read_text_model(baseline.model)
    if has_student:
        models["student"] = read_text_model(student.model)
    if not models:
        first = "" if job.task else f"`jaxbrewer train {job.path}` and "
        raise UsageError(
            f"{training.output_dir} holds no model yet: run {first}`jaxbrewer distill {job.path}`."
        )
    return models


def _evaluate(
    given: ToScore, batch_size: int, per_class: bool, selective: float | None
) -> "Evaluation":
    task, sources, training = given
    data, path, read = task.data, str(task.data.test), {}
    report_wait("reading the texts")
    said: dict[str, Any] = {}  # by a teacher from elsewhere
    for name, source in sources.items():
        names = task.label_names or (None if source.labels_are_numbers else source.labels)
        task.require_head(source)
        examples = task.read(path, names=names, origin=str(source.directory))
        head = task.head_to_use(source, examples)
        tokenizer, examples = Tokenizer(source.directory), task.with_head(examples, head)
        texts = Texts(examples, task.encode(tokenizer, examples))
        read[name] = source, head, tokenizer, texts
        predictions = None if said else outside_predictions(data, path, head.names)
        if predictions is not None:
            said["teacher"] = predictions, None, texts, head.names

    report_wait("loading JAX and the model")
    from ..devices.mesh import on_device
    from ..text.evaluation import ModelToScore, evaluation_of
    from . import job_models

    models = {name: ModelToScore(*parts) for name, parts in said.items()}
    with on_device(training):
        for name, (source, head, tokenizer, texts) in read.items():
            model = job_models.load(task, source, head)
            check_fits(name, model.config, tokenizer, data, [texts.encoded])
            models[name] = ModelToScore(model, source.directory, texts, head.names)
        evaluation = evaluation_of(
            task,
            models,
            batch_size=batch_size,
            with_details=per_class,
            selective=selective,
            report=report_wait,
            progress=report_progress,
        )
    if per_class and not any(scores.get("details") for scores in evaluation["rows"].values()):
        raise UsageError(f"--per-class: data.task {task.name!r} has no classes.")
    if selective is not None and "selective" not in evaluation["rows"]["student"]:
        raise UsageError(
            f"--selective: the predictions of data.task {task.name!r} by these models cannot be "
            "compared as single answers."
        )
    return evaluation
