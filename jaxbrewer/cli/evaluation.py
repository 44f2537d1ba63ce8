"""``jaxbrewer evaluate``: a model on a file, or the models of a job."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..configs import TrainingConfig
from ..errors import UsageError
from ..text import Tokenizer
from .config import DataConfig, Job, read_job
from .job_data import classes_of, in_order, read_labelled, tokenize
from .model_directory import Card, read_bert
from .run_paths import student_run, teacher_run
from .training import teacher_card


def evaluate(
    path: Path, given: Mapping[str, Any], overrides: Sequence[str], *, batch_size: int
) -> None:
    """Prints how good a model, or the teacher and student of a job, are on a file.

    Args:
        path: A model directory, or a job.
        given: Fields of :class:`DataConfig`, which replace those of a job; ``test`` is the file.
        overrides: Overrides of the job.
        batch_size: Texts at once.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}.")
    if path.is_file():
        job = read_job(path, overrides)
        data = dataclasses.replace(job.config.data, **given)
        job = job._replace(config=dataclasses.replace(job.config, data=data))
        job.need("data.test", "a file with labelled texts")
        return _evaluate(_models_of(job), data, job.config.training, batch_size)
    card = read_bert(path)
    if overrides:
        raise UsageError(f"{overrides[0]}: {path} is a model; only a job takes overrides.")
    if "test" not in given:
        raise UsageError(f"Give a file with labelled texts to evaluate {path} on.")
    longest = card.fields.get("max_position_embeddings", DataConfig.max_length)
    data = DataConfig(**{"max_length": min(DataConfig.max_length, longest), **given})
    return _evaluate({"model": card}, data, TrainingConfig(), batch_size)


def _models_of(job: Job) -> dict[str, Card]:
    training = job.config.training
    cards = {}
    if teacher_run(training).has_model or student_run(training).has_model:
        cards["teacher"] = teacher_card(job)
    if student_run(training).has_model:
        cards["student"] = read_bert(student_run(training).model)
    if not cards:
        raise UsageError(
            f"{training.output_dir} holds no model yet: run `jaxbrewer train {job.path}` and "
            f"`jaxbrewer distill {job.path}`."
        )
    return cards


def _evaluate(
    cards: dict[str, Card], data: DataConfig, training: TrainingConfig, batch_size: int
) -> None:
    path, read = str(data.test), {}
    for name, card in cards.items():
        if not card.has_head:
            raise UsageError(f"{card.directory} has no classification head.")
        names = data.labels or (None if card.labels_are_numbers else card.labels)
        examples = read_labelled(path, data, names)
        classes = classes_of(card, examples, data)
        tokenizer = Tokenizer(card.directory)
        texts = tokenize(tokenizer, in_order(examples, classes.names), data)
        read[name] = card, classes, tokenizer, texts

    from ..devices.sharding import on_device
    from . import job_models

    models = {}
    with on_device(training):
        for name, (card, classes, tokenizer, texts) in read.items():
            model = job_models.load(card, classes)
            job_models.refuse_misfit(name, model.config, tokenizer, data, [texts])
            models[name] = job_models.Scored(model, card.directory, texts)
        title = f"{len(texts.examples):,} texts of {path}"
        job_models.show_scores(models, title=title, batch_size=batch_size)
