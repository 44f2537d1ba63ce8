"""Reads the facts about a model from its Hugging Face directory, without loading any weights."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, suggest
from .model_types import (
    BARE,
    FAMILIES,
    PROBLEM_TYPES,
    TASKS,
    end_of_class,
    head_tensors,
)
from .weight_files import (
    Tensor,
    is_model_directory,
    open_weights,
    paths_of_weights,
    read_config,
)


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
    def model_type(self) -> str:
        """The key of the model's family in ``FAMILIES``."""
        return str(self.fields.get("model_type", "bert"))

    def has_head(self, task: str) -> bool:
        """Whether the files hold a head for a task, a key of ``TASKS``."""
        architectures = self.fields.get("architectures")
        named = architectures if isinstance(architectures, list) else []
        ends = {key: end_of_class(self.model_type, key) for key in TASKS}
        tasks = {key for key, end in ends.items() for name in named if str(name).endswith(end)}
        if tasks and task not in tasks and task != BARE:  # an encoder can lose its head
            return False
        model_type = self.model_type
        if model_type == "bert" and self.fields.get("classifier_pooling", "cls") == "mean":
            model_type = "mean_pooled_bert"
        heads = head_tensors(model_type, task)
        return heads is not None and all(
            any(f".{name}".endswith(f".{end}") for name in self.tensors) for end in heads
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """The tasks that the files hold a head for."""
        if self.model_type not in FAMILIES:
            return ()
        return tuple(task for task in TASKS if task != BARE and self.has_head(task))

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
    def problem_type(self) -> str | None:
        """What the logits of a sequence classification head are, if the config says so."""
        problem = self.fields.get("problem_type")
        if problem not in (None, *PROBLEM_TYPES):
            raise UsageError(
                f"{self.directory / 'config.json'}: problem_type {problem!r} is unknown: "
                f"{suggest(problem, PROBLEM_TYPES)}"
            )
        return problem

    @property
    def longest(self) -> int | None:
        """The number of positions, if the config has it."""
        fields = self.fields
        number = fields.get("max_position_embeddings", fields.get("n_positions"))
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
        is_run = os.path.isfile(directory / "manifest.json")
        why = "it is the directory of a run" if is_run else "it has no config.json"
        raise UsageError(f"{directory} is not a model directory: {why}.{hint}")
    fields = read_config(directory)
    with open_weights(directory, fields) as files:
        weights = {
            name: tensor
            for name, tensor in files.tensors.items()
            if tensor.dtype.startswith(("F", "BF"))
        }
    return ModelDirectory(directory, fields, weights)


def read_text_model(directory: str | Path) -> ModelDirectory:
    """As :func:`read_model_directory`, and refuses models of unknown families.

    Raises:
        UsageError: As there; or ``model_type`` is not in ``FAMILIES``.
    """
    source = read_model_directory(directory)
    if source.model_type not in FAMILIES:
        raise UsageError(
            f"{directory} is a model of type {source.model_type!r}, which is not supported: "
            f"{suggest(source.model_type, FAMILIES)}"
        )
    return source
