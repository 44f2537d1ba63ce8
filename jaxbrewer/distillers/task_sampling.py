"""The draw of tasks, and the batches of several tasks as one stream."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..data.groups import Group, count_examples, groups
from ..data.position import Position
from ..errors import UsageError
from ..step.tasks import TaskBatch

Draw = Callable[[int, int], list[str]]
"""``draw(step, size)``: the tasks of the ``size`` micro-batches of step ``step``, from 0."""


def task_probabilities(sizes: Mapping[str, int], tau: float) -> dict[str, float]:
    r"""The probability of each task, :math:`n_t^\tau / \sum_u n_u^\tau`.

    Args:
        sizes: Examples of each task.
        tau: 1 draws in proportion to the sizes, 0 all alike.

    Examples:
        >>> shares = task_probabilities({"large": 400, "small": 100}, tau=0.5)
        >>> {task: round(float(share), 4) for task, share in shares.items()}
        {'large': 0.6667, 'small': 0.3333}
    """
    if not isinstance(tau, (int, float)) or not np.isfinite(tau):
        raise UsageError(f"tau must be a finite number, got {tau!r}.")
    logs = tau * np.log(np.maximum(1, np.fromiter(sizes.values(), float)))
    powers = np.exp(logs - logs.max())
    return dict(zip(sizes, (powers / powers.sum()).tolist(), strict=True))


def loader_probabilities(dataloaders: Mapping[str, Any], tau: float) -> dict[str, float]:
    """The probability of each task, by the examples of its loader.

    Where a loader does not say how many it has, all tasks are equally probable, with a warning.
    """
    sizes = {task: count_examples(loader) for task, loader in dataloaders.items()}
    unknown = [task for task, size in sizes.items() if size is None]
    if unknown:
        warnings.warn(
            f"The numbers of examples of {unknown} are unknown: tau={tau} has no effect, and "
            "all tasks are drawn alike.",
            stacklevel=5,
        )
        tau = 0.0
    return task_probabilities({task: size or 1 for task, size in sizes.items()}, tau)


def make_draw(probabilities: Mapping[str, float], seed: int) -> Draw:
    """A draw of tasks that depends on the seed and the step alone.

    Every process draws the same, and a resumed training draws what it would have drawn.

    Examples:
        >>> draw = make_draw({"a": 0.5, "b": 0.5}, seed=0)
        >>> draw(7, 3) == draw(7, 3)
        True
    """
    names, weights = list(probabilities), list(probabilities.values())

    def draw(step: int, size: int) -> list[str]:
        rng = np.random.default_rng([seed, step])
        return [names[index] for index in rng.choice(len(names), size=size, p=weights)]

    return draw


def task_groups(
    dataloaders: Mapping[str, Any],
    size: int,
    draw: Draw,
    *,
    start: Position | None = None,
) -> Iterator[Group]:
    """Yields ``size`` batches at a time, of tasks as they are drawn; each task's data repeat.

    The batches of a group are ordered by their tasks' names, so that groups with the same numbers
    of each have one shape.

    Args:
        dataloaders: By task.
        size: Batches in a group.
        draw: From :func:`make_draw`.
        start: The position of a group, whose successors are yielded.

    Raises:
        UsageError: A task's data have no batches, or are not those that ``start`` belongs to.
    """
    step = 0 if start is None else start["update"]
    begins = dict.fromkeys(dataloaders) if start is None else start["tasks"]
    streams = {
        task: groups(dataloader, 1, start=begins[task]) for task, dataloader in dataloaders.items()
    }
    places: dict[str, Callable[[], Position | None]] = {
        task: functools.partial(dict.get, begins, task) for task in dataloaders
    }
    while True:
        batches = []
        for task in sorted(draw(step, size)):
            group = next(streams[task])
            batches.append(TaskBatch(task, group.batches[0]))
            places[task] = group.make_position
        step += 1
        locate = functools.partial(_locate, step, size, dict(places))
        yield Group(tuple(batches), 0, step * size, locate)


def _locate(step: int, size: int, places: Mapping[str, Callable[[], Any]]) -> Position:
    """The step, and the position in each task's data."""
    tasks = {task: place() for task, place in places.items()}
    return {"epoch": 0, "batch": step * size, "update": step, "tasks": tasks}
