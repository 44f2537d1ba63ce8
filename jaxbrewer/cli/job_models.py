"""The models of a job: loads or builds them, checks them against the texts, saves and scores them.

Only this module of the command line imports JAX; commands import it after all other checks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import nnx

from ..configs import IntermediateMatch
from ..errors import UsageError, suggest
from ..forward.as_model import as_model
from ..models import (
    BertConfig,
    BertForSequenceClassification,
    cut_layers,
    load_bert,
    save_bert,
)
from ..step.teachers import make_teacher_step
from ..text import Tokenizer
from ..text.classification import ClassifierTraining, adaptor, evaluate
from .config import DataConfig, StudentConfig
from .job_data import Classes, Texts
from .messages import report_wait
from .model_directory import ModelDirectory, read_bert_directory
from .output import format_bytes, print_table

Bert = BertForSequenceClassification


def load(
    source: ModelDirectory,
    classes: Classes,
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
) -> Bert:
    """Loads a classifier and names its classes.

    Args:
        source: The directory.
        classes: The classes.
        settings: ``teacher.settings``: fields that replace those of ``config.json``.
        seed: Seed of weights that the file does not have.
    """
    _require_known("teacher.settings", settings)
    model = load_bert(
        source.directory,
        Bert.task,
        labels=classes.names,
        new_head=classes.new_head,
        seed=seed,
        **settings,
    )
    assert isinstance(model, Bert)
    return model


def make_student(
    config: StudentConfig, teacher: Bert, names: tuple[str, ...], *, seed: int
) -> Bert:
    """Builds the student of a job, with the teacher's classes."""
    if config.path is not None:
        source = read_bert_directory(config.path)
        new_head = not source.has_head or source.labels != names
        return load(source, Classes(names, new_head), seed=seed)
    if config.layers is not None:
        return cut_layers(teacher, config.layers)
    return Bert(_resize(teacher.config, config.size or {}), rngs=nnx.Rngs(seed))


def _resize(teacher: BertConfig, fields: Mapping[str, Any]) -> BertConfig:
    _require_known("student.size", fields)
    try:
        return dataclasses.replace(teacher, **fields)
    except UsageError as error:
        raise UsageError(f"student.size: {error}") from None


def _require_known(where: str, fields: Mapping[str, Any]) -> None:
    """Refuses fields that do not exist, and those that the data decides (the classes)."""
    names = {field.name for field in dataclasses.fields(BertConfig)} - {"num_labels", "labels"}
    for name in fields:
        if name not in names:
            raise UsageError(f"{where} has no field {name!r}: {suggest(name, sorted(names))}")


def check_fits(
    who: str, config: BertConfig, tokenizer: Tokenizer, data: DataConfig, texts: Sequence[Texts]
) -> None:
    """Raises :class:`UsageError` if the model cannot read the tokens."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UsageError(
            f"The {who} has a vocab_size of {config.vocab_size:,}, but the tokenizer has "
            f"{tokenizer.vocab_size:,} tokens."
        )
    if data.max_length > config.max_position_embeddings:
        raise UsageError(
            f"data.max_length {data.max_length} is more than the {who} can read: its "
            f"max_position_embeddings are {config.max_position_embeddings}."
        )
    kinds = max(int(part.encoded.token_type_ids.max()) + 1 for part in texts)
    if kinds > config.type_vocab_size:
        raise UsageError(
            f"The texts come in pairs, but the {who} has a type_vocab_size of "
            f"{config.type_vocab_size}."
        )


def save(model: Bert, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes model and tokenizer in Hugging Face's format."""
    tokenizer.save(directory)
    save_bert(model, directory)


def describe(model: Bert) -> str:
    """One line about the model."""
    config = model.config
    return (
        f"BERT of {config.num_hidden_layers} layers x {config.hidden_size}, "
        f"{count_parameters(model):,} parameters"
    )


def count_parameters(model: Bert) -> int:
    """The number of all weights, trained or frozen."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def describe_match(
    match: IntermediateMatch, training: ClassifierTraining, teacher: Bert, student: Bert
) -> str:
    """The two features that a match compares, with their shapes in the first batch."""
    batch = next(iter(training.loader))

    def shapes(model: Bert, layers: int | Sequence[int]) -> str:
        wrapped = as_model(model)
        outputs = jax.eval_shape(make_teacher_step(wrapped, adaptor), wrapped.variables, batch)
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


class ModelToScore(NamedTuple):
    """A model, the directory it was saved in, and the texts to score it on."""

    model: Bert
    directory: Path
    texts: Texts


def print_scores(models: Mapping[str, ModelToScore], *, title: str, batch_size: int = 64) -> None:
    """Evaluates models and prints a table of their scores."""
    header = ["", "accuracy", "loss", "parameters", "file", "texts/s"]
    rows = []
    for name, (model, directory, texts) in models.items():
        report_wait(f"scoring the {name}")
        scores = evaluate(model, texts.encoded, texts.labels, batch_size=batch_size)
        rows.append(
            [
                name,
                f"{scores.accuracy:.4f}",
                f"{scores.loss:.4f}",
                f"{count_parameters(model):,}",
                format_bytes(read_bert_directory(directory).size),
                f"{scores.examples_per_second:,.0f}",
            ]
        )
    print_table(rows, header, title=title, numbers=range(1, len(header)))
