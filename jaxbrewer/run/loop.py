"""The order of events in a training: batch, step, scalars, checkpoint, callback."""

import contextlib
import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..checksums import leaves_by_path
from ..configs import TrainingConfig
from ..data.batches import BatchReader, ReadBatch
from ..data.groups import GroupSource, count_batches
from ..devices.mesh import DeviceLayout, on_device
from ..devices.processes import exit_all_on_error
from ..devices.separate_teacher import SeparateTeacher
from ..devices.sharding import jit_step, place_batch
from ..errors import NonFiniteError, UsageError
from ..forward.model import PyTree
from ..objective.term_weights import TermWeight
from ..objective.value_checks import FailedCheck
from ..step.state import TrainState, with_hyperparameters_of
from .checkpointer import Checkpointer
from .directory import RunDirectory
from .interrupts import Interrupts
from .nonfinite import FlaggedStep, NonFiniteGuard
from .plan import Plan
from .profiling import Profiler
from .progress import announce
from .retention import require_best_metric
from .step_log import LEAD, StepLog
from .trackers import TrackedRun, open_trackers

History = dict[str, np.ndarray]
"""Every metric as an array over steps."""

MANY_SHAPES = 8
"""Number of distinct batch shapes compiled before a warning."""


def plan_training(
    config: TrainingConfig, dataloader: Any, num_epochs: int | None, num_steps: int | None
) -> Plan:
    """Plans the number of optimizer steps of a training.

    Raises:
        UsageError: Neither number is given, one is invalid, or an epoch has too few batches.
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
            "nothing would be trained. Lower it, or give num_steps, where groups cross epochs."
        )
    if rest:
        warnings.warn(
            f"The last {rest} of {batches} batches of each epoch do not fill a group of "
            f"gradient_accumulation_steps={size} and are not used.",
            stacklevel=3,
        )
    return Plan(total_steps=steps * int(value), steps_per_epoch=steps)


class AfterCheckpoint(NamedTuple):
    """What follows a checkpoint.

    Attributes:
        scores: Numbers by which checkpoints are chosen.
        stops: Whether the training ends.
    """

    scores: Mapping[str, float] | None = None
    stops: bool = False


def fit(
    step: FlaggedStep,
    state: TrainState,
    teacher_variables: PyTree,
    source: GroupSource,
    *,
    config: TrainingConfig,
    plan: Plan,
    run_directory: RunDirectory | None,
    keep: Callable[[TrainState, History], None],
    layout: DeviceLayout = DeviceLayout(),  # noqa: B008  # frozen
    separate_teacher: SeparateTeacher | None = None,
    weights_at_0: Mapping[str, TermWeight] = {},
    settings: Mapping[str, Any] = {},
    postprocess: Callable[[Any, TrainState], Any] = lambda batch, state: batch,
    on_checkpoint: Callable[[int, TrainState], AfterCheckpoint] = lambda step, state: (
        AfterCheckpoint()
    ),
    has_scores: bool = True,
    initial: PyTree = None,
    is_preempted: Callable[[int], bool] = lambda step: False,
) -> None:
    """Trains from ``state``, or from the last checkpoint of a run that resumes, to the end.

    Args:
        step: From :func:`~jaxbrewer.run.nonfinite.with_finite_flags`; it is jitted here, with its
            state donated.
        state: The first state, on its devices. Its buffers are donated.
        teacher_variables: The second argument of ``step``, on its devices.
        source: Yields the batches of each step.
        config: Frequencies, devices and directories.
        plan: Number of steps.
        run_directory: From :func:`~jaxbrewer.run.directory.open_run`, or ``None``.
        keep: Called once with the last state and the history, every metric as an array over steps;
            also if an error or Ctrl-C ends the training, but not if a step was not finite. After
            Ctrl-C the state is saved as well.
        layout: The devices of batches.
        separate_teacher: A teacher that ``step`` does not run and whose outputs it needs.
        weights_at_0: The weights of the loss's terms before the first step, which are logged.
        settings: The configs as nested dicts, for trackers.
        postprocess: Applied to every batch and the state before anything else.
        on_checkpoint: Called with the step and the state after each checkpoint.
        has_scores: Whether ``on_checkpoint`` may return scores; if not, a metric that
            ``keep_best`` needs and the step lacks is refused before the first step.
        initial: The weights that ``state`` was made of, searched for values that are not finite
            if the first step is not finite.
        is_preempted: Whether the training must end after a step, which is then saved.

    Raises:
        NonFiniteError: A loss or a gradient is not finite, with ``on_nonfinite="stop"``.
        Preempted: After SIGTERM; the state is saved.
        UsageError: The run cannot be resumed.
    """
    exit_all_on_error()
    shapes: set[tuple[int, ...]] = set()
    read = BatchReader()
    teachers = teacher_variables if separate_teacher is None else separate_teacher.variables

    def prepare(batches: tuple[Any, ...]) -> Any:
        if separate_teacher is None:
            placed = place_batch(batches, layout)
        else:
            placed = separate_teacher.place(batches)
        return placed if len(placed) > 1 else placed[0]

    with contextlib.ExitStack() as stack:
        stack.enter_context(on_device(config))
        run = run_directory and stack.enter_context(run_directory)
        checkpointer = None if run is None else stack.enter_context(Checkpointer(run, config))
        saved = checkpointer and checkpointer.restore(state)
        begun, position = (saved.step, saved.position) if saved else (0, None)
        if saved and config.progress:
            announce(f"resuming from step {saved.step:,}")
        if begun > plan.total_steps:
            raise UsageError(
                f"The run has made {begun} steps, more than the {plan.total_steps} asked for: ask "
                "for more epochs or steps, or begin a run in another output_dir."
            )
        if saved and config.force_resume:  # the training's own settings rule
            opt_state = with_hyperparameters_of(saved.state.opt_state, state.opt_state)
            state = dataclasses.replace(saved.state, opt_state=opt_state)
        elif saved:
            state = saved.state
        resumed_at = begun if run and run.resumes else None
        tracked = TrackedRun(None, None, config.log_dir, resumed_at)
        if run is not None:
            tracked = dataclasses.replace(tracked, name=run.name, directory=run.directory)
        log = StepLog(
            run.directory if run else None,
            plan.total_steps,
            writers=functools.partial(open_trackers, config, tracked),
            resumed_at=resumed_at,
            show=config.progress,
            weights=weights_at_0,
        )
        stack.enter_context(log)
        log.report_settings(settings)
        profiler = stack.enter_context(Profiler(config))
        interrupts = stack.enter_context(Interrupts())
        if begun == 0:
            log.report_weights()

        def complete(step: int, state: TrainState) -> bool:
            """Calls the callback after a checkpoint; whether the training ends."""
            after = on_checkpoint(step, state)
            log.report_scores(step, after.scores)
            if checkpointer is None:
                return after.stops
            checkpointer.complete(step, after.scores, log.latest())
            return after.stops or checkpointer.is_out_of_patience()

        stops = False
        if saved and checkpointer:
            is_due = not checkpointer.is_completed(saved)
            stops = complete(begun, state) if is_due else checkpointer.is_out_of_patience()
        skips = config.on_nonfinite == "skip"
        guard = NonFiniteGuard(leaves_by_path(state.trainable))
        jitted = jit_step(step, state, layout)
        number, last = begun, None
        groups = itertools.islice(source(start=position), plan.total_steps - begun)
        announced: frozenset[str] = frozenset()
        log.waits_for(begun + 1, "reading the first batch")
        try:
            for group in log.reading(groups) if not stops else ():
                found = [read(postprocess(batch, state)) for batch in group.batches]
                batches = tuple(batch.arrays for batch in found)
                is_new = _watch_shapes(shapes, found)
                profiler.before(number + 1, state)
                if is_new:
                    log.waits_for(number + 1, "compiling for this shape of batches")
                placed = prepare(batches)
                log.has_data()
                if number == begun and run is not None and not has_scores:
                    _, (scalars, _) = jax.eval_shape(jitted, state, teacher_variables, placed)
                    require_best_metric(config, scalars.tree.metrics)
                with interrupts.delayed():
                    state, (scalars, gradients) = jitted(state, teacher_variables, placed)
                    number, last = number + 1, group
                    examples = sum(batch.size for batch in found) * layout.loaders
                    log.add(number, examples, scalars, compiled=is_new)
                    guard.add(number, batches, scalars, gradients)
                if config.progress and is_new:
                    announced = _announce_new(scalars.facts, announced)
                profiler.after(number, state)
                is_planned = plan.saves_at(number, config)
                is_last_call = is_preempted(number)
                stops_here = is_planned or is_last_call or number == plan.total_steps
                while bad := guard.first_nonfinite(lead=0 if stops_here else LEAD):
                    if skips:
                        guard.count_skipped(bad)
                        continue
                    log.read(bad.number)
                    arrays = {"teacher's arrays": teachers, "batch": bad.batch}
                    if bad.number == begun + 1:
                        arrays = {"weights": initial, **arrays}
                    kept = checkpointer.last_kept() if checkpointer else "Nothing was saved."
                    raise guard.error(bad, arrays, kept)
                if not stops_here:
                    continue
                log.read()  # before the checkpoint, which is never ahead of the scalars
                if checkpointer is not None and (is_planned or is_last_call):
                    checkpointer.save(number, state, group.position, is_planned=is_planned)
                if is_planned:
                    stops = complete(number, state)
                if is_last_call and number < plan.total_steps:
                    assert checkpointer is not None
                    checkpointer.exit_preempted(number)
                if stops:
                    break
        except (NonFiniteError, FailedCheck):
            raise
        except BaseException as error:
            if number > begun and _is_sound(state) and (skips or not guard.has_fault()):
                with contextlib.suppress(Exception):  # the error that ends the training counts
                    log.read()
                keep(state, log.history())
                if isinstance(error, KeyboardInterrupt) and checkpointer and last:
                    checkpointer.save_interrupted(number, state, last.position)
            raise
        guard.report_skipped(number - begun)
        if checkpointer is not None:
            checkpointer.end()
        keep(state, log.history())


def _is_sound(state: TrainState) -> bool:
    """Whether a state can be kept: a step that failed has donated its buffers.

    Several processes, whose arrays are gathered together, keep nothing of what one of them ends.
    """
    is_alone = jax.process_count() == 1
    return is_alone and not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _announce_new(facts: Iterable[str], announced: frozenset[str]) -> frozenset[str]:
    """Prints the facts of a step that were not announced yet; returns all that are now."""
    for fact in facts:
        if fact not in announced:
            announce(fact)
    return announced.union(facts)


def _watch_shapes(shapes: set[tuple[int, ...]], batches: Sequence[ReadBatch]) -> bool:
    """Whether these are the first batches of their shapes, which are compiled for."""
    before = len(shapes)
    shapes.add(tuple(batch.shape for batch in batches))
    if before == MANY_SHAPES and len(shapes) > before:
        warnings.warn(
            f"This is the {len(shapes)}th different batch shape, and each one is compiled anew: "
            "pad batches to a few lengths, and drop or fill the incomplete last batch.",
            stacklevel=3,
        )
    return len(shapes) > before
