"""Which task every micro-batch is from, and the batches of several tasks as one stream."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..data.batches import as_arrays
from ..data.groups import Group, groups
from ..data.position import Position
from ..errors import UsageError
from ..step.tasks import TaskBatch

Draw = Callable[[int, int], list[str]]
"""``draw(update, size)``: the tasks of the ``size`` micro-batches of update ``update``, from 0."""


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


def make_draw(probabilities: Mapping[str, float], seed: int) -> Draw:
    """A draw of tasks that depends on the seed and the update alone.

    Every process draws the same, and a training that goes on draws what it would have drawn.

    Examples:
        >>> draw = make_draw({"a": 0.5, "b": 0.5}, seed=0)
        >>> draw(7, 3) == draw(7, 3)
        True
    """
    names, weights = list(probabilities), list(probabilities.values())

    def draw(update: int, size: int) -> list[str]:
        rng = np.random.default_rng([seed, update])
        return [names[index] for index in rng.choice(len(names), size=size, p=weights)]

    return draw


def task_groups(
    dataloaders: Mapping[str, Any],
    size: int,
    draw: Draw,
    *,
    postprocessors: Mapping[str, Callable[[Any], Any]] = {},
    start: Position | None = None,
) -> Iterator[Group]:
    """``size`` batches at a time of tasks as they are drawn; each task's data repeat for ever.

    The batches of a group stand in the order of their tasks' names, so that groups with the same
    numbers of each are one shape.

    Args:
        dataloaders: By task.
        size: Batches in a group.
        draw: From :func:`make_draw`.
        postprocessors: By task: ``batch -> batch``, applied first.
        start: The position of a group: its successors follow.

    Raises:
        UsageError: A task's data give no batches, or are not those that ``start`` belongs to.
    """
    update = 0 if start is None else start["update"]
    begins = dict.fromkeys(dataloaders) if start is None else start["tasks"]
    streams = {
        task: groups(dataloader, 1, start=begins[task]) for task, dataloader in dataloaders.items()
    }
    places: dict[str, Callable[[], Position | None]] = {
        task: functools.partial(dict.get, begins, task) for task in dataloaders
    }
    while True:
        batches = []
        for task in sorted(draw(update, size)):
            group = next(streams[task])
            batch = group.batches[0]
            if task in postprocessors:
                batch = postprocessors[task](batch)
            batches.append(TaskBatch(task, as_arrays(batch)))
            places[task] = group.make_position
        update += 1
        locate = functools.partial(_locate, update, size, dict(places))
        yield Group(tuple(batches), 0, update * size, locate)


def _locate(update: int, size: int, places: Mapping[str, Callable[[], Any]]) -> Position:
    """The update, and where each task's data stand."""
    tasks = {task: place() for task, place in places.items()}
    return {"epoch": 0, "batch": update * size, "update": update, "tasks": tasks}
