"""The order of events in a training: batch, step, scalars, checkpoint, callback."""

import contextlib
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import CheckpointStore, Plan
from .configs import TrainingConfig
from .data import GroupSource, as_arrays, batch_size, count_batches, signature
from .errors import UsageError
from .functional import PyTree
from .sharding import Layout, jit_step, on_device, place_batch
from .state import TrainState
from .step import TrainStep
from .tracking import Tracker

MANY_SHAPES = 8
"""So many different batch shapes are compiled without a word."""


def plan_training(
    config: TrainingConfig, dataloader: Any, num_epochs: int | None, num_steps: int | None
) -> Plan:
    """How many optimizer updates a training has.

    Raises:
        UsageError: Neither or nonsense was given, or an epoch has too few batches for one update.
    """
    if num_steps is None and num_epochs is None:
        raise UsageError("train() needs num_epochs or num_steps.")
    name, value = ("num_epochs", num_epochs) if num_steps is None else ("num_steps", num_steps)
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be an int >= 1, got {value!r}.")
    if num_steps is not None:
        return Plan(total_steps=int(value))
    batches, size = count_batches(dataloader), config.gradient_accumulation_steps
    steps, rest = divmod(batches, size)
    if steps == 0:
        raise UsageError(
            f"An epoch of {batches} batches has no group of gradient_accumulation_steps={size}: "
            "nothing would be trained. Lower it, or count num_steps, where groups cross epochs."
        )
    if rest:
        warnings.warn(
            f"The last {rest} of {batches} batches of each epoch make no full group of "
            f"gradient_accumulation_steps={size} and are not used.",
            stacklevel=3,
        )
    return Plan(total_steps=steps * int(value), steps_per_epoch=steps)


def run(
    step: TrainStep,
    state: TrainState,
    teacher_variables: PyTree,
    source: GroupSource,
    *,
    config: TrainingConfig,
    plan: Plan,
    directory: Path | None,
    layout: Layout = Layout(),  # noqa: B008  # frozen
    batch_postprocessor: Callable[[Any], Any] | None = None,
    on_checkpoint: Callable[[int, TrainState], None] | None = None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Trains from ``state`` to the end of ``plan``.

    Args:
        step: A pure train step; it is jitted here, with its state donated.
        state: Where to begin, on its devices. Its buffers are used up.
        teacher_variables: The second argument of ``step``, on its devices.
        source: Gives the batches of each update.
        config: Frequencies, devices and directories.
        plan: Number of updates.
        directory: Run directory from :func:`~jaxbrewer.tracking.open_run`, or ``None``.
        layout: Where batches go.
        batch_postprocessor: Applied to every batch before anything else sees it.
        on_checkpoint: Called with the update number and the state after each checkpoint.

    Returns:
        The final state, and the history: every metric as an array over updates.
    """
    size = config.gradient_accumulation_steps
    shapes: set[Any] = set()
    store = None if directory is None else CheckpointStore(directory / "checkpoints")
    with (
        on_device(config),
        Tracker(directory, config.log_dir, plan.total_steps, show=config.progress) as tracker,
        contextlib.nullcontext() if store is None else contextlib.closing(store),
    ):
        jitted = jit_step(step, state, layout)
        updates = itertools.islice(source(start=None), plan.total_steps)
        for number, group in enumerate(updates, start=1):
            batches = group.batches
            if batch_postprocessor is not None:
                batches = tuple(map(batch_postprocessor, batches))
            batches = tuple(map(as_arrays, batches))
            _watch_shapes(shapes, batches)
            placed = place_batch(batches, layout)
            state, metrics = jitted(state, teacher_variables, placed if size > 1 else placed[0])
            tracker.add(number, sum(map(batch_size, batches)), metrics)
            if plan.saves_at(number, config):
                if store is not None:
                    store.save(number, state, group.position)
                tracker.read()
                if on_checkpoint is not None:
                    on_checkpoint(number, state)
        tracker.read()
        return state, tracker.history()


def _watch_shapes(shapes: set[Any], batches: tuple[Any, ...]) -> None:
    before = len(shapes)
    shapes.add(signature(batches))
    if before == MANY_SHAPES and len(shapes) > before:
        warnings.warn(
            f"This is the {len(shapes)}th different batch shape, and each one is compiled anew: "
            "pad batches to a few lengths, and drop or fill the incomplete last batch.",
            stacklevel=3,
        )
