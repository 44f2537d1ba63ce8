"""Checks a teacher before it is distilled: is it better than a linear model on words?"""

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import log_warning
from ..run.results import LinearBaseline, Numbers
from ..text import Task, Tokenizer
from ..text.tasks import Texts
from .config import Job
from .job_data import HeldOut
from .messages import report_wait
from .output import print_line, print_note

if TYPE_CHECKING:
    from ..models import TransformerModel

MOST_HELD_OUT = 500
"""Held-out texts that compare a teacher with a linear model."""


def check_teacher(
    job: Job,
    task: Task[Any],
    teacher: "TransformerModel",
    labelled: Any | None,
    held_out: HeldOut,
    tokenizer: Tokenizer,
) -> LinearBaseline | None:
    """Warns of a teacher that is worse than a linear model trained on the same labels.

    Both are scored on ``data.validation``, or else ``data.test``, on :data:`MOST_HELD_OUT` random
    texts of it if there are more.

    Args:
        job: The job.
        task: Its task.
        teacher: The teacher.
        labelled: The examples with labels.
        held_out: The texts that score models.
        tokenizer: The teacher's tokenizer.

    Returns:
        The metrics of both; ``None`` if the task has no such model, labels or held-out texts are
        missing, or scikit-learn is not installed, which a line reports.
    """
    texts = held_out.validation or held_out.test
    has_baseline = type(task).linear_baseline is not Task.linear_baseline
    if labelled is None or texts is None or not has_baseline:
        return None
    if importlib.util.find_spec("sklearn") is None:
        print_line(
            "Not checked: whether the teacher is better than a linear model on words "
            '(pip install "jaxbrewer[baseline]").'
        )
        return None
    report_wait("comparing the teacher with a linear model on words")
    from ..text.inference import run_model

    data = job.config.data
    order = np.random.default_rng(0).permutation(len(texts.examples))
    examples = texts.examples.take(np.sort(order[:MOST_HELD_OUT]))
    chosen = Texts(examples, task.encode(tokenizer, examples))
    found = task.linear_baseline(labelled, examples)
    assert found is not None
    linear: Numbers = dict(task.score(*chosen, found))
    predicted = run_model(task, teacher, chosen.encoded).predictions
    own: Numbers = dict(task.score(*chosen, predicted))
    metric = task.main_metric
    path = str(data.test if held_out.validation is None else data.validation)
    one, other = (float(scores[metric] or 0.0) for scores in (own, linear))
    is_worse = one < other if task.larger_is_better else one > other
    if is_worse:
        log_warning(
            f"The teacher is worse than a linear model on words: {metric} {one:.4f} against "
            f"{other:.4f} on {len(examples):,} texts of {path}. Before you distil it, train it for "
            "more steps (--teacher.optimization.min_steps), at another learning rate or on more "
            "labels."
        )
    else:
        print_note(
            f"The teacher is not worse than a linear model on words: {metric} {one:.4f} against "
            f"{other:.4f} on {len(examples):,} texts of {path}."
        )
    return LinearBaseline(
        path=path,
        examples=len(examples),
        teacher=own,
        linear={key: linear[key] for key in (metric, "macro_f1") if key in linear},
        is_teacher_worse=is_worse,
    )
