"""Reads the facts about a model from its Hugging Face directory, without loading any weights."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, suggest
from ..models.weight_files import (
    Tensor,
    is_model_directory,
    open_weights,
    paths_of_weights,
    read_config,
)

BERTS = ("bert", "mean_pooled_bert")
"""The values of ``model_type`` that the commands support."""


@dataclasses.dataclass(frozen=True)
class ModelDirectory:
    """A model directory.

    Attributes:
        directory: The directory.
        fields: The content of ``config.json``.
        tensors: The floating-point tensors of its safetensors files by name.
    """

    directory: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """Bytes of the files with the weights."""
        return sum(path.stat().st_size for path in paths_of_weights(self.directory, self.fields))

    @property
    def has_head(self) -> bool:
        """Whether the model has a classification head."""
        names = {name.removeprefix("bert.") for name in self.tensors}
        pooled = self.fields.get("classifier_pooling", "cls") == "cls"
        return {"classifier.weight", *(["pooler.dense.weight"] if pooled else [])} <= names

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in order."""
        names = self.fields.get("id2label")
        if not names:  # as in transformers
            number = self.fields.get("num_labels", 2)
            count = number if isinstance(number, int) and 0 <= number < 2**24 else 0
            return tuple(f"LABEL_{label}" for label in range(count))
        try:
            by_number = {int(number): str(name) for number, name in names.items()}
            return tuple(by_number[number] for number in range(len(by_number)))
        except (AttributeError, KeyError, ValueError):
            raise UsageError(
                f"{self.directory / 'config.json'}: id2label must number its labels from 0."
            ) from None

    @property
    def labels_are_numbers(self) -> bool:
        """Whether the classes have only the default names ``LABEL_0``, ``LABEL_1``, ..."""
        return all(name == f"LABEL_{number}" for number, name in enumerate(self.labels))

    @property
    def longest(self) -> int | None:
        """The number of positions, if the config has it."""
        number = self.fields.get("max_position_embeddings")
        return number if isinstance(number, int) and number > 0 else None


def read_model_directory(directory: str | Path) -> ModelDirectory:
    """Reads ``config.json`` and the names, shapes and types of the tensors.

    Raises:
        UsageError: It is not a model directory, or a file is damaged.
    """
    directory = Path(directory)
    if not os.path.isdir(directory):
        raise UsageError(f"{directory} does not exist, or is not a directory.")
    if not is_model_directory(directory):
        inside = directory / "model"
        hint = f" Did you mean {inside}?" if is_model_directory(inside) else ""
        raise UsageError(f"{directory} is not a model directory: it has no config.json.{hint}")
    fields = read_config(directory)
    with open_weights(directory, fields) as files:
        weights = {
            name: tensor
            for name, tensor in files.tensors.items()
            if tensor.dtype.startswith(("F", "BF"))
        }
    return ModelDirectory(directory, fields, weights)


def read_bert_directory(directory: str | Path) -> ModelDirectory:
    """As :func:`read_model_directory`, and refuses models other than BERTs."""
    source = read_model_directory(directory)
    kind = source.fields.get("model_type", "bert")
    if kind not in BERTS:
        raise UsageError(
            f"{directory} is a model of type {kind!r}, which the command line does not support: "
            f"{suggest(kind, BERTS)}"
        )
    return source
