"""``jaxbrewer evaluate``: scores a model, or the models of a job, on a file."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from .run_paths import (
    baseline_run,
    find_teachers,
    named_teachers,
    refuse_tasks,
    student_run,
    teacher_run,
)
from .score_table import print_evaluation

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
        job = read_job(path, overrides)
        refuse_tasks(job)
        data = dataclasses.replace(job.config.data, **given)
        job = job._replace(config=dataclasses.replace(job.config, data=data))
        job.need("data.test", "a file with labelled texts")
        task, models, training = task_of(data), _models_of(job), job.config.training
    else:
        source = read_text_model(path)
        fields = {**read_data_fields(path, overrides), **given}
        if "test" not in fields:
            raise UsageError(f"Give a file with labelled texts to evaluate {path} on.")
        models, training = {"model": source}, TrainingConfig()
        if teacher is not None:
            models = {"teacher": read_text_model(teacher), "student": source}
        task = make_task(source, fields)
    file = str(task.data.test)
    if selective is not None and "student" not in models:
        raise UsageError("--selective needs a student and a teacher: give --teacher DIR.")
    evaluation = _evaluate(task, models, training, batch_size, per_class, selective)
    content = {"file": file, **evaluation}
    if output is not None:
        write_json(output, content)
    if as_json:
        print(json.dumps(content, indent=1, allow_nan=False))
    else:
        print_evaluation(evaluation, file=file)


def _models_of(job: Job) -> dict[str, ModelDirectory]:
    training, models = job.config.training, {}
    has_student = student_run(training).has_model
    if outside_columns(job.config.data) is None and (
        teacher_run(training).has_model or has_student
    ):
        models = named_teachers(find_teachers(job))
    if baseline_run(training).has_model:
        models["baseline"] = read_text_model(baseline_run(training).model)
    if has_student:
        models["student"] = read_text_model(student_run(training).model)
    if not models:
        raise UsageError(
            f"{training.output_dir} holds no model yet: run `jaxbrewer train {job.path}` and "
            f"`jaxbrewer distill {job.path}`."
        )
    return models


def _evaluate(
    task: Task[Any],
    sources: Mapping[str, ModelDirectory],
    training: TrainingConfig,
    batch_size: int,
    per_class: bool,
    selective: float | None,
) -> "Evaluation":
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

    models = {name: ModelToScore(*given) for name, given in said.items()}
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
