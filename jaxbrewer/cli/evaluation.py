"""``jaxbrewer evaluate``: scores a model, or the models of a job, on a file."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..configs import DataConfig, TrainingConfig
from ..errors import UsageError
from ..models.model_directory import ModelDirectory, read_text_model
from ..text import Tokenizer, task_of
from ..text.tasks import Texts
from .config import Job, read_job
from .messages import report_wait
from .run_paths import find_teacher, student_run, teacher_run
from .score_table import print_evaluation


def evaluate(
    path: Path, given: Mapping[str, Any], overrides: Sequence[str], *, batch_size: int
) -> None:
    """Prints the scores of a model, or of the teacher and student of a job, on a file.

    Args:
        path: A model directory or a job.
        given: Fields of :class:`DataConfig` that replace those of a job; ``test`` is the file.
        overrides: Overrides of the job.
        batch_size: Texts per batch.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}.")
    if os.path.isfile(path):
        job = read_job(path, overrides)
        data = dataclasses.replace(job.config.data, **given)
        job = job._replace(config=dataclasses.replace(job.config, data=data))
        job.need("data.test", "a file with labelled texts")
        return _evaluate(_models_of(job), data, job.config.training, batch_size)
    source = read_text_model(path)
    if overrides:
        raise UsageError(f"{overrides[0]}: {path} is a model; only a job takes overrides.")
    if "test" not in given:
        raise UsageError(f"Give a file with labelled texts to evaluate {path} on.")
    longest = min(DataConfig.max_length, source.longest or DataConfig.max_length)
    data = DataConfig(**{"max_length": longest, **given})
    return _evaluate({"model": source}, data, TrainingConfig(), batch_size)


def _models_of(job: Job) -> dict[str, ModelDirectory]:
    training = job.config.training
    models = {}
    if teacher_run(training).has_model or student_run(training).has_model:
        models["teacher"] = find_teacher(job)
    if student_run(training).has_model:
        models["student"] = read_text_model(student_run(training).model)
    if not models:
        raise UsageError(
            f"{training.output_dir} holds no model yet: run `jaxbrewer train {job.path}` and "
            f"`jaxbrewer distill {job.path}`."
        )
    return models


def _evaluate(
    sources: Mapping[str, ModelDirectory],
    data: DataConfig,
    training: TrainingConfig,
    batch_size: int,
) -> None:
    task, path, read = task_of(data), str(data.test), {}
    report_wait("reading the texts")
    for name, source in sources.items():
        names = data.labels or (None if source.labels_are_numbers else source.labels)
        task.require_head(source)
        examples = task.read(path, names=names, origin=str(source.directory))
        head = task.head_to_use(source, examples)
        tokenizer, examples = Tokenizer(source.directory), task.with_head(examples, head)
        read[name] = source, head, tokenizer, Texts(examples, task.encode(tokenizer, examples))

    report_wait("loading JAX and the model")
    from ..devices.mesh import on_device
    from ..text.evaluation import ModelToScore, evaluation_of
    from . import job_models

    models = {}
    with on_device(training):
        for name, (source, head, tokenizer, texts) in read.items():
            model = job_models.load(task, source, head)
            job_models.check_fits(name, model.config, tokenizer, data, [texts])
            models[name] = ModelToScore(model, source.directory, texts, head.names)
        evaluation = evaluation_of(task, models, batch_size=batch_size, report=report_wait)
        print_evaluation(evaluation, file=path)
