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
    "multi-label": "multi_label.MultiLabel",
    "embeddings": "embeddings.Embeddings",
    "masked-language-modeling": "masked_language_modeling.MaskedLanguageModeling",
    "regression": "regression.Regression",
    "token-classification": "token_classification.TokenClassification",
    "question-answering": "question_answering.QuestionAnswering",
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
    return task_class(data.task)(data)


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task.

    Args:
        name: A name in ``TASKS``.

    Raises:
        UsageError: The name is unknown.

    Examples:
        >>> task_class("multi-label").main_metric
        'micro_f1'
    """
    if name not in TASKS:
        raise UsageError(f"data.task {name!r} is unknown: {suggest(name, TASKS)}")
    module, _, attribute = TASKS[name].partition(".")
    found: type[Task[Any]] = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return found
