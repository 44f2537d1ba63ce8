"""Reads the facts about a model from its Hugging Face directory, without loading any weights."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError


class Tensor(NamedTuple):
    """The shape and type of a tensor in a file.

    Attributes:
        shape: The shape.
        dtype: The type under its name in safetensors: ``"F32"``.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def numbers(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return self.numbers * int("".join(filter(str.isdigit, self.dtype[:3])) or 8) // 8


@dataclasses.dataclass(frozen=True)
class ModelDirectory:
    """A model directory.

    Attributes:
        directory: The directory.
        fields: The content of ``config.json``.
        tensors: The floating-point tensors of ``model.safetensors`` by name.
    """

    directory: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def weights(self) -> Path:
        """The file with the weights."""
        return self.directory / "model.safetensors"

    @property
    def has_head(self) -> bool:
        """Whether the model has a classification head."""
        names = {name.removeprefix("bert.") for name in self.tensors}
        pooled = self.fields.get("classifier_pooling", "cls") == "cls"
        return {"classifier.weight", *(["pooler.dense.weight"] if pooled else [])} <= names

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in order."""
        names = self.fields.get("id2label") or {}
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


def is_model_directory(directory: Path) -> bool:
    """Whether the directory holds a model."""
    return (directory / "config.json").is_file() and not (directory / "manifest.json").exists()


def read_model_directory(directory: str | Path) -> ModelDirectory:
    """Reads ``config.json`` and the names of the tensors.

    Raises:
        UsageError: It is not a model directory, or a file is damaged.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory} does not exist, or is not a directory.")
    if not is_model_directory(directory):
        inside = [below for below in (directory / "model", directory) if is_model_directory(below)]
        hint = f" Did you mean {inside[0]}?" if inside else ""
        raise UsageError(f"{directory} is not a model directory: it has no config.json.{hint}")
    path = directory / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{path} must hold a JSON object.")
    return ModelDirectory(directory, fields, _tensors(directory / "model.safetensors"))


def read_bert_directory(directory: str | Path) -> ModelDirectory:
    """As :func:`read_model_directory`, and refuses models other than BERTs."""
    source = read_model_directory(directory)
    kind = source.fields.get("model_type", "bert")
    if kind != "bert":
        raise UsageError(f"{directory} is a model of type {kind!r}; only 'bert' is supported.")
    return source


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        import safetensors
    except ImportError:
        raise UsageError(
            "Model directories need safetensors: pip install jaxbrewer[text]"
        ) from None
    if not path.is_file():
        raise UsageError(f"{path} does not exist: the directory has no weights.")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Tensor(tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
                if part.get_dtype().startswith(("F", "BF"))
            }
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged or not a safetensors file: {error}") from None
