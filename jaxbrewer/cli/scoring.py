"""Scores the models of a job on its test texts and prints the table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..run.results import Scores
from ..text import Task
from .messages import report_progress, report_wait
from .score_table import print_evaluation

if TYPE_CHECKING:
    from ..text.evaluation import ModelToScore, ScoredModel


def score_and_print(
    task: Task[Any],
    models: "Mapping[str, ModelToScore]",
    *,
    file: str,
    scored: "Mapping[str, ScoredModel]" = MappingProxyType({}),
) -> "tuple[dict[str, Scores], dict[str, ScoredModel]]":
    """Prints the scores of models.

    Args:
        task: The task.
        models: The models by name; without any, nothing is printed.
        file: The file with the examples.
        scored: What an earlier call returned for some of the models, which are not run again.

    Returns:
        The rows of the results, and what running the models gave, for a later call.
    """
    from ..text.evaluation import evaluation_of, score_models

    if not models:
        return {}, {}
    new = {name: model for name, model in models.items() if name not in scored}
    found = score_models(task, new, report=report_wait, progress=report_progress)
    scored = {**scored, **found}
    evaluation = evaluation_of(task, models, scored=scored, report=report_wait)
    print_evaluation(evaluation, file=file)
    return evaluation["rows"], scored
