"""What each task needs, and the settings of a job that says nothing: docs/auto.md has evidence."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

AUTO = "auto"
"""The value of the section ``distillation`` that stands for the settings of the task's row."""


KEEPS_AUTO = frozenset({"is_caching_logits"})
"""Fields of ``DistillationConfig`` that change when something is computed, and not what: given
alone, they leave the settings to the task."""


@dataclasses.dataclass(frozen=True)
class AutoSettings:
    """The settings of a task.

    Attributes:
        distillation: Fields of ``DistillationConfig``, beside those of :data:`NEEDS`.
        teacher: Fields of ``OptimizationConfig`` for the fine-tuning of a teacher.
        student: The same for a student that starts from trained weights.
        new_student: The same for a student that starts from random weights.
    """

    distillation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"learning_rate": 2e-4, "min_steps": 600}
    )
    student: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"learning_rate": 2e-4, "min_steps": 600}
    )
    new_student: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"learning_rate": 1e-3, "weight_decay": 0.1, "min_steps": 1500}
    )

    def optimization(self, section: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The optimizer's settings of a section of a job.

        A length that is given replaces ``min_steps``.

        Args:
            section: ``"teacher"`` or ``"student"``.
            given: The fields of the section that are given.

        Examples:
            >>> dict(AutoSettings(student={"min_steps": 9}).optimization("student", {}))
            {'min_steps': 9}
            >>> given = {"optimization": {"num_epochs": 3}}
            >>> dict(AutoSettings(student={"min_steps": 9}).optimization("student", given))
            {}
        """
        is_new = section == "student" and given.get("size") is not None
        row: Mapping[str, Any] = self.new_student if is_new else getattr(self, section)
        optimization = given.get("optimization")
        lengths = ("num_epochs", "num_steps", "min_steps")
        has_length = isinstance(optimization, Mapping) and any(
            optimization.get(name) is not None for name in lengths
        )
        return {name: value for name, value in row.items() if name not in lengths or not has_length}


_CLASSES = {"temperature": 1, "hard_label_weight": 0}

AUTO_SETTINGS: Mapping[str, AutoSettings] = MappingProxyType(
    {
        "classification": AutoSettings(_CLASSES),
        "multi-label": AutoSettings(_CLASSES),
        "regression": AutoSettings({"hard_label_weight": 0}),
        "token-classification": AutoSettings(_CLASSES),
        "question-answering": AutoSettings(_CLASSES),
    }
)
"""The settings of each task, by ``data.task``; see :func:`settings_of_task` for other tasks."""

_NOT_SEARCHED = AutoSettings(teacher={"learning_rate": 5e-5}, student={}, new_student={})


def settings_of_task(name: str) -> AutoSettings:
    """The settings of a task; those of a task without a row are the defaults of the configs.

    Examples:
        >>> settings_of_task("classification").distillation["temperature"]
        1
        >>> settings_of_task("language-modeling").student
        {}
    """
    return AUTO_SETTINGS.get(name, _NOT_SEARCHED)


NEEDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "multi-label": MappingProxyType({"kd_loss_type": "bce"}),
        "regression": MappingProxyType({"kd_loss_type": "mse", "temperature": 1}),
        "embeddings": MappingProxyType(
            {
                "kd_loss_weight": 0,
                "intermediate_matches": [
                    {"feature": "embedding", "layer_T": 0, "layer_S": 0, "loss": "cos", "weight": 1}
                ],
            }
        ),
    }
)
"""By task, the fields of ``DistillationConfig`` whose defaults its outputs need to be others."""


def needs_of_task(name: str) -> Mapping[str, Any]:
    """The defaults that a task needs, also where a job gives other fields of ``distillation``.

    Examples:
        >>> dict(needs_of_task("multi-label")), dict(needs_of_task("classification"))
        ({'kd_loss_type': 'bce'}, {})
    """
    return NEEDS.get(name, MappingProxyType({}))
