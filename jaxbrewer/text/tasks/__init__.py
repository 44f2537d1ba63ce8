"""The table of tasks on text, one module each."""

import importlib
from typing import Any

from ...configs import DataConfig
from ...errors import UsageError, suggest
from .measure import Measure as Measure
from .task import Dataset as Dataset
from .task import Head as Head
from .task import Predictions as Predictions
from .task import Task as Task
from .task import Texts as Texts

TASKS = {
    "classification": "classification.Classification",
    "language-modeling": "language_modeling.LanguageModeling",
}
"""The values of ``data.task``: a module of this folder and its class."""


def task_of(data: DataConfig) -> Task[Any]:
    """The task of a job's data.

    Raises:
        UsageError: ``data.task`` is unknown, or the task cannot use the data as it is described.

    Examples:
        >>> task_of(DataConfig()).head
        'sequence-classification'
    """
    if data.task not in TASKS:
        raise UsageError(f"data.task {data.task!r} is unknown: {suggest(data.task, TASKS)}")
    module, _, name = TASKS[data.task].partition(".")
    found: type[Task[Any]] = getattr(importlib.import_module(f".{module}", __package__), name)
    return found(data)
