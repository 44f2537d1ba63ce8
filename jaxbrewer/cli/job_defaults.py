"""The defaults of a job that depend on its task, its validation texts and its student."""

from collections.abc import Mapping
from typing import Any

from ..configs import Config, DataConfig
from ..configs.auto import AUTO, AUTO_SETTINGS, KEEPS_AUTO, needs_of_task, settings_of_task
from ..errors import UsageError


def is_set_by_task(field: str) -> bool:
    """Whether the default of a field of a job comes from the row of its task.

    Examples:
        >>> is_set_by_task("distillation.temperature"), is_set_by_task("training.seed")
        (True, False)
    """
    section, _, rest = field.partition(".")
    rows = AUTO_SETTINGS.values()
    if section == "distillation":
        return any(rest in row.distillation for row in rows)
    name = rest.removeprefix("optimization.")
    fields = ("teacher",) if section == "teacher" else ("student", "new_student")
    return section in ("teacher", "student") and any(
        name in getattr(row, field) for row in rows for field in fields
    )


SMALLER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "mse"})
"""Metrics whose smallest value is the best; the task says so of its main metric."""


def of_validation(data: DataConfig, given: Any) -> dict[str, Any]:
    """The defaults of ``training`` in a job with ``data.validation``: they keep the best.

    Args:
        data: The section ``data``.
        given: The section ``training``, as it is given.

    Examples:
        >>> data = DataConfig(validation="dev.tsv")
        >>> of_validation(data, {"patience": 3})
        {'best_metric': 'accuracy', 'best_mode': 'max'}
        >>> of_validation(data, {"best_metric": "loss", "keep_last": 1})
        {'best_metric': 'loss', 'best_mode': 'min', 'keep_best': 1}
    """
    if data.validation is None:
        return {}
    from ..text.tasks import TASKS, task_of  # loads NumPy

    given = given if isinstance(given, Mapping) else {}
    if data.task not in TASKS:
        return {}
    task = task_of(data)
    if not task.metrics:
        raise UsageError(
            f"data.validation: data.task {data.task!r} has no metrics of single texts: set "
            "data.text_pair, or leave out data.validation."
        )
    metric = given.get("best_metric") or task.main_metric
    larger = str(metric) not in SMALLER_IS_BETTER
    if metric == task.main_metric:
        larger = task.larger_is_better
    removes = given.get("keep_last") is not None or given.get("keep_every") is not None
    return {
        "best_metric": metric,
        "best_mode": "max" if larger else "min",
        **({"keep_best": 1} if removes else {}),
    }


def of_validation_of_tasks(data: Mapping[str, DataConfig], given: Any) -> dict[str, Any]:
    """The defaults of ``training`` in a job with several tasks: as :func:`of_validation` of one.

    Args:
        data: The section ``data`` of each task.
        given: The section ``training``, as it is given.

    Raises:
        UsageError: Several tasks have validation texts, and no metric is named.

    Examples:
        >>> data = {"spam": DataConfig(validation="dev.tsv"), "topic": DataConfig()}
        >>> of_validation_of_tasks(data, {})
        {'best_metric': 'spam/accuracy', 'best_mode': 'max'}
        >>> of_validation_of_tasks(data, {"best_metric": "spam/loss"})
        {'best_metric': 'spam/loss', 'best_mode': 'min'}
    """
    given = given if isinstance(given, Mapping) else {}
    named = given.get("best_metric")
    task, _, metric = str(named or "").partition("/")
    settings = {}
    for name, own in data.items():
        try:
            best = metric if name == task else None
            settings[name] = of_validation(own, {**given, "best_metric": best})
        except UsageError as error:
            raise UsageError(f"tasks.{name}: {error}") from None
    validated = {name: own for name, own in settings.items() if own}
    choices = [f"{name}/{own['best_metric']}" for name, own in validated.items()]
    if not validated:
        return {}
    if named is None and len(validated) > 1:
        raise UsageError(
            f"training.best_metric: {' and '.join(validated)} have data.validation: name the "
            f"metric that chooses the best checkpoint, such as {' or '.join(choices)}."
        )
    if named is not None and task not in validated:
        raise UsageError(
            f"training.best_metric must be <task>/<metric> of a task with data.validation, such as "
            f"{' or '.join(choices)}, got {named!r}."
        )
    chosen = next(iter(validated)) if named is None else task
    return {**validated[chosen], "best_metric": f"{chosen}/{validated[chosen]['best_metric']}"}


def is_auto(section: Any) -> bool:
    """Whether a section ``distillation`` leaves what is learned to the task.

    Examples:
        >>> is_auto(None), is_auto("auto"), is_auto({"temperature": 2})
        (True, True, False)
        >>> is_auto({"is_caching_logits": True})
        True
    """
    if isinstance(section, Mapping):
        return KEEPS_AUTO.issuperset(section)
    return section is None or section == AUTO


def auto_distillation(data: DataConfig, given: Any = AUTO) -> dict[str, Any]:
    """The fields of ``distillation: auto``: what the task needs, and the settings of its row.

    Args:
        data: The section ``data``.
        given: The section ``distillation``, for which :func:`is_auto` holds.

    Examples:
        >>> auto_distillation(DataConfig(task="multi-label"))
        {'kd_loss_type': 'bce', 'temperature': 1, 'hard_label_weight': 0}
    """
    own = given if isinstance(given, Mapping) else {}
    return {**needs_of_task(data.task), **settings_of_task(data.task).distillation, **own}


def fill_optimization(config: Config, field: str, task: str) -> None:
    """Adds the optimizer's settings of the task to a section that is a mapping."""
    section = getattr(config, field)
    if section is not None and not isinstance(section, Mapping):
        return
    given = {} if section is None else dict(section)
    own = given.get("optimization")
    if own is None or isinstance(own, Mapping):
        defaults = settings_of_task(task).optimization(field, given)
        given["optimization"] = {**defaults, **(own or {})}
    object.__setattr__(config, field, given)


def fill(config: Config, field: str, **defaults: Any) -> None:
    """Adds the defaults that a section has in this place, if it is a mapping."""
    section = getattr(config, field)
    if section is None or isinstance(section, Mapping):
        object.__setattr__(config, field, {**defaults, **(section or {})})
