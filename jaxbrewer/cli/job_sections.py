"""The sections of a job that only the command line has: its models and tasks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..configs import Config, DataConfig, DistillationConfig, OptimizationConfig
from ..errors import UsageError
from .job_defaults import auto_distillation, fill, is_auto


@dataclasses.dataclass(frozen=True)
class TeacherConfig(Config):
    """The large model.

    Args:
        path: A Hugging Face directory: where ``train`` starts, and the teacher of ``distill``
            unless ``train`` has saved one in the same ``output_dir``.
        settings: Fields of its ``config.json`` that ``train`` changes, such as
            ``{"classifier_pooling": "mean"}`` for a sentence encoder.
        frozen: Parts that ``train`` does not change, as prefixes of their paths, such as
            ``"bert.embeddings"``.
        optimization: The optimizer of ``train``.
    """

    path: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frozen: Sequence[str] = ()
    optimization: OptimizationConfig = dataclasses.field(
        default_factory=lambda: OptimizationConfig(learning_rate=5e-5)
    )

    def __post_init__(self) -> None:
        """Checks each field."""
        self.require("path", self.path is None or isinstance(self.path, str), "a directory")
        self.require("settings", isinstance(self.settings, Mapping), "a mapping")
        _take_paths(self, "frozen")
        fill(self, "optimization", learning_rate=5e-5)
        self.nest("optimization", OptimizationConfig)


@dataclasses.dataclass(frozen=True)
class StudentConfig(Config):
    """The small model: a directory, layers of the teacher, or a size.

    Args:
        path: A Hugging Face directory to start from.
        layers: Layers of the teacher to start from, such as ``[0, 2, 4]``.
        size: Fields of ``config.json`` that differ from the teacher's, such as
            ``{"num_hidden_layers": 2, "hidden_size": 128}``; the student starts from random
            weights. With the ``model_type`` of another family, all other fields are the family's.
        tokenizer: The directory of its tokenizer; by default that of ``path``, or the teacher's.
        frozen: Parts that stay as they start, as prefixes of their paths, also in the baseline.
        optimization: The optimizer of ``distill``.
    """

    path: str | None = None
    layers: Sequence[int] | None = None
    size: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    frozen: Sequence[str] = ()
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)

    def __post_init__(self) -> None:
        """Checks each field."""
        given = [name for name in ("path", "layers", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"StudentConfig takes one of path, layers and size, got {given}.")
        self.require("path", self.path is None or isinstance(self.path, str), "a directory")
        if self.layers is not None:
            holds = isinstance(self.layers, (list, tuple)) and all(
                isinstance(layer, int) and not isinstance(layer, bool) for layer in self.layers
            )
            self.require("layers", holds, "a list of layer numbers")
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.size is not None:
            self.require("size", isinstance(self.size, Mapping), "a mapping")
        holds = self.tokenizer is None or isinstance(self.tokenizer, str)
        self.require("tokenizer", holds, "a directory")
        if self.tokenizer is not None and self.layers is not None:
            raise UsageError(
                "StudentConfig takes no tokenizer with layers: the teacher's layers read the "
                "teacher's tokens."
            )
        _take_paths(self, "frozen")
        self.nest("optimization", OptimizationConfig)


def _take_paths(config: Config, field: str) -> None:
    """Checks a list of paths and makes it a tuple."""
    paths = getattr(config, field)
    is_list = isinstance(paths, (list, tuple))
    holds = is_list and all(isinstance(path, str) for path in paths)
    config.require(field, holds, "a list of paths")
    object.__setattr__(config, field, tuple(paths))


@dataclasses.dataclass(frozen=True)
class WeightedTeacher(Config):
    """One of several teachers.

    Args:
        path: Its Hugging Face directory.
        weight: Its weight in the average of the teachers.
    """

    path: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Checks each field."""
        self.require("path", isinstance(self.path, str) and bool(self.path), "a directory")
        self.require_positive("weight")


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """One of several tasks.

    Args:
        data: Its files.
        teacher: Its teacher; ``path`` is used.
        distillation: Its losses; by default those of the job.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    distillation: DistillationConfig | None = None

    def __post_init__(self) -> None:
        """Builds the sections from mappings."""
        self.nest("data", DataConfig)
        self.nest("teacher", TeacherConfig)
        if self.distillation is not None:
            if is_auto(self.distillation):
                fields = auto_distillation(self.data, self.distillation)
                object.__setattr__(self, "distillation", fields)
            self.nest("distillation", DistillationConfig)
