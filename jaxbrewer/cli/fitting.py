"""Runs a training of a job to its end, and takes the best checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..run.results import TrainingResult
from ..text import Task
from .config import Job
from .job_data import HeldOut
from .output import print_line

if TYPE_CHECKING:
    from ..run.plan import Plan
    from ..text.multi_task import MultiTaskTraining
    from ..text.training import TextTraining
    from ..text.validation import MultiTaskValidation, Validation

ToValidate: TypeAlias = "Validation | MultiTaskValidation | None"
"""The callback of a training, if it has validation texts."""


def validation_of(task: Task[Any], held_out: HeldOut) -> "Validation | None":
    """The callback that scores each checkpoint."""
    from ..text.validation import Validation

    texts = held_out.validation
    return None if texts is None else Validation(task, texts.examples, texts.encoded)


def validation_of_tasks(
    tasks: Mapping[str, tuple[Task[Any], HeldOut]],
) -> "MultiTaskValidation | None":
    """The callback that scores each checkpoint of the tasks that have validation texts."""
    from ..text.validation import MultiTaskValidation

    found = {name: validation_of(task, held_out) for name, (task, held_out) in tasks.items()}
    validations = {name: own for name, own in found.items() if own is not None}
    return MultiTaskValidation(validations) if validations else None


def fit(
    job: Job,
    training: "TextTraining | MultiTaskTraining",
    plan: "Plan",
    validation: ToValidate,
) -> TrainingResult:
    """Trains, and takes the best checkpoint where there are validation texts."""
    from ..run.load_student import best_step, scores_of

    config = training.trainer.train_config
    steps = training.train(validation).history.get("step", np.zeros(0))
    outcome = TrainingResult(
        steps=int(steps.max(initial=0)),
        planned_steps=plan.total_steps,
        best_step=None,
        validation=[],
    )
    if outcome["steps"] < plan.total_steps:
        print_line(
            f"The training stopped after step {outcome['steps']:,} of {plan.total_steps:,}: the "
            f"last {config.patience} checkpoints are no better than an earlier one."
        )
    if validation is None:
        return outcome
    directory, metric = str(config.output_dir), str(config.best_metric)
    best, scores = best_step(directory, config), scores_of(directory)
    if best != outcome["steps"]:
        training.trainer.restore(best)
    value = next(row[metric] for row in scores if row["step"] == best)
    files = [own.config.data.validation for own in (job, *job.of_tasks().values())]
    print_line(
        f"The best of {len(scores):,} checkpoints is that of step {best:,}: {metric} {value:.4f} "
        f"on {', '.join(dict.fromkeys(file for file in files if file))}."
    )
    return {**outcome, "best_step": best, "validation": scores}
