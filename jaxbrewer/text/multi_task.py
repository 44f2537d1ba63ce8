"""Trains one student with a head for each of several tasks on text: from teachers, or on labels."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..configs import DistillationConfig, OptimizationConfig, TrainingConfig
from ..devices.estimate import Estimate
from ..distillers import MultiTaskDistiller, Result
from ..forward.adaptors import Adaptor
from ..models.shared_encoder import SharedEncoder
from ..run.plan import Plan
from .loader import TokenLoader
from .tasks import Task
from .tokenize import Encoded
from .training import at_even_steps, data_facts, make_adamw, make_loader


class TaskToTrain(NamedTuple):
    """One of the tasks.

    Attributes:
        task: The task.
        teacher: Its teacher; ``None`` trains it on labels alone.
        encoded: Its examples.
        distillation: Its losses; ``None`` for those that all tasks share.
    """

    task: Task[Any]
    teacher: Any
    encoded: Encoded
    distillation: DistillationConfig | None = None


@dataclasses.dataclass(frozen=True)
class MultiTaskTraining:
    """A training of several tasks that is ready to run.

    Attributes:
        trainer: The distiller.
        loaders: The texts, by task.
        optimization: The optimizer's settings.
    """

    trainer: MultiTaskDistiller
    loaders: Mapping[str, TokenLoader]
    optimization: OptimizationConfig

    @property
    def total_steps(self) -> int:
        """``num_steps``, or those of as many batches as the tasks have in ``num_epochs``."""
        return _total_steps(self.loaders, self.optimization, self.trainer.train_config)

    def train(self, callback: Callable[..., Any] | None = None) -> Result:
        """Runs the training; ``callback`` is that of the distiller."""
        return self._call(self.trainer.train, callback=callback)

    def check(self, callback: Callable[..., Any] | None = None) -> Plan:
        """Raises the errors that :meth:`train` would raise, by tracing the first steps."""
        return self._call(self.trainer.check, callback=callback)

    def estimate(self, task: str) -> Estimate:
        """Estimates what a step of a task needs of each device, without running it."""
        return self._call(self.trainer.estimate, task=task)

    def _call(self, method: Callable[..., Any], **options: Any) -> Any:
        return method(
            make_adamw(self.optimization, self.total_steps),
            self.loaders,
            self.total_steps,
            max_grad_norm=self.optimization.max_grad_norm,
            **options,
        )


def _total_steps(
    loaders: Mapping[str, TokenLoader], optimization: OptimizationConfig, training: TrainingConfig
) -> int:
    batches = sum(len(loader) for loader in loaders.values())
    return optimization.total_steps(max(batches // training.gradient_accumulation_steps, 1))


def make_multi_task_distillation(
    tasks: Mapping[str, TaskToTrain],
    student: SharedEncoder,
    distillation: DistillationConfig,
    optimization: OptimizationConfig,
    training: TrainingConfig,
) -> MultiTaskTraining:
    """Prepares to distil a model for each task into one student.

    Each step draws the task of its batches in proportion to the tasks' numbers of examples.

    Args:
        tasks: The tasks.
        student: A student with a head for each.
        distillation: The losses of tasks without their own. If no task has its own, all of them
            share the projections of matches.
        optimization: The optimizer's settings.
        training: Directories, devices and checkpoints, which are as many as in ``num_epochs``.
    """
    configs: Any = distillation
    if any(own.distillation is not None for own in tasks.values()):
        configs = {name: own.distillation or distillation for name, own in tasks.items()}
    for own in tasks.values():
        if own.teacher is not None:
            own.task.require_losses(own.distillation or distillation)
    loaders = {
        name: make_loader(own.task, own.encoded, optimization, training)
        for name, own in tasks.items()
    }
    total_steps = _total_steps(loaders, optimization, training)
    training = at_even_steps(training, optimization, total_steps)
    distiller = MultiTaskDistiller(
        training,
        configs,
        {name: own.teacher for name, own in tasks.items()},
        student,
        {name: own.task.adaptor for name, own in tasks.items()},
        {name: _adaptor_of(name, own.task) for name, own in tasks.items()},
    )
    distiller.run_facts = lambda: {
        "data": {name: data_facts(own.task, own.encoded) for name, own in tasks.items()}
    }
    return MultiTaskTraining(distiller, loaders, optimization)


def make_multi_task_fine_tuning(
    tasks: Mapping[str, TaskToTrain],
    student: SharedEncoder,
    optimization: OptimizationConfig,
    training: TrainingConfig,
) -> MultiTaskTraining:
    """Prepares to train one student on the labels of each task.

    Args:
        tasks: The tasks; their teachers and losses have no effect.
        student: A student with a head for each.
        optimization: The optimizer's settings.
        training: Directories, devices and checkpoints.
    """
    labels_alone = DistillationConfig(hard_label_weight=1)
    return make_multi_task_distillation(
        {name: own._replace(teacher=None, distillation=None) for name, own in tasks.items()},
        student,
        labels_alone,
        optimization,
        training,
    )


def _adaptor_of(name: str, task: Task[Any]) -> Adaptor:
    """The adaptor of the student's head for a task."""
    return lambda batch, outputs: task.adaptor(batch, outputs[name])
