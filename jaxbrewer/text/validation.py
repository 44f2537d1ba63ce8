"""Scores a model on held-out texts at each checkpoint, by which the best one is chosen."""

from collections.abc import Mapping
from typing import Any

from .inference import ModelRunner
from .tasks import Task
from .tokenize import Encoded


class Validation:
    """A callback that scores the model on held-out examples.

    Args:
        task: The task.
        examples: The examples.
        encoded: Their tokens.
    """

    def __init__(self, task: Task[Any], examples: Any, encoded: Encoded):
        self._task, self._examples, self._encoded = task, examples, encoded
        self._run = ModelRunner(task, encoded)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, by which a training checks ``best_metric`` in advance."""
        return self._task.metrics

    def __len__(self) -> int:
        return len(self._examples)

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        """The metrics of ``model``."""
        return self._task.score(self._examples, self._encoded, self._run(model).predictions)


class MultiTaskValidation:
    """A callback that scores the models of several tasks, each on its own held-out examples.

    Args:
        validations: By task; tasks without held-out examples are left out.
    """

    def __init__(self, validations: Mapping[str, Validation]):
        self._validations = dict(validations)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, ``<task>/<metric>``."""
        return tuple(
            f"{task}/{metric}" for task, own in self._validations.items() for metric in own.metrics
        )

    def __len__(self) -> int:
        return sum(len(own) for own in self._validations.values())

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        """The metrics of the models in ``model``, a ``SharedEncoder``."""
        return {
            f"{task}/{metric}": value
            for task, own in self._validations.items()
            for metric, value in own(model.models[task], step).items()
        }
