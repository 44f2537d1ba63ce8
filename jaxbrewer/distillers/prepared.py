"""A training before its first step, as data; functions that check, estimate and fit it."""

import contextlib
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..cache.manifest import identities
from ..configs import TrainingConfig
from ..data.batches import as_batch
from ..data.groups import GroupSource
from ..devices.estimate import Estimate, estimate_step
from ..devices.mesh import make_layout, on_device
from ..devices.processes import broadcast_json
from ..devices.separate_teacher import SeparateTeacher
from ..devices.sharding import (
    Teachers,
    gather,
    init_state,
    place_teacher,
    readable,
    variables_of,
)
from ..errors import StopTraining, UsageError
from ..forward.model import Model, PyTree
from ..forward.precision import policy_of
from ..objective.term_weights import TermWeight
from ..run import loop
from ..run.directory import DistillConfigs, configs_as_json, open_run
from ..run.nonfinite import FlaggedStep
from ..run.optimizer_settings import closure_settings
from ..run.plan import Plan
from ..run.preemption import watch_sigterm
from ..run.retention import require_best_metric
from ..step.optimizer import OptimizerFactory
from ..step.state import HasProjections, TrainState, evaluation_params, init_train_state
from ..step.teachers import Teacher
from .postprocessing import Postprocess

Optimizer: TypeAlias = optax.GradientTransformation | OptimizerFactory


class Result(NamedTuple):
    """The result of ``train``.

    Attributes:
        student: The trained student, of the kind that was given: the NNX module itself, updated in
            place; the variables of a Linen module; the parameters of a function.
        history: Every metric as an array with one entry per optimizer step, and ``step``.
    """

    student: Any
    history: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run directory records of a training beside its :class:`TrainingConfig`.

    Attributes:
        distiller: Name of the distiller's class.
        distill_configs: The config, one by task, or ``None`` without distillation.
        models: Every model by its name in the manifest.
        teacher_fingerprint: Computes the digest of the teacher's weights, by which a resumed run
            knows its teacher; ``None`` if they are unknown.
        more_facts: Computes further entries of the manifest that a resumed run must match.
    """

    distiller: str
    distill_configs: DistillConfigs
    models: Mapping[str, Model]
    teacher_fingerprint: Callable[[], str | None]
    more_facts: Callable[[], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A training before its first step. Nothing is compiled, no directory is made.

    Attributes:
        config: The training config.
        plan: Number of steps, and of steps in an epoch.
        student: The student, with the weights that the training starts from.
        teacher: The teacher or teachers that the step runs, or these by task.
        separate_teacher: The teacher or teachers on devices of their own, which it does not run.
        projections: The projections that the training starts from; ``None`` draws new ones.
        objective: The total loss, of one task or of several.
        optimizer: The optimizer of student and projections.
        make_step: ``micro_batches -> train step``, from
            :func:`~jaxbrewer.run.nonfinite.with_finite_flags`.
        source: Yields the batches of each step.
        postprocess: Applied to every batch before anything else.
        weights_at_0: The weight of each term of the loss before the first step.
        record: For the run directory.
    """

    config: TrainingConfig
    plan: Plan
    student: Model
    teacher: Teachers
    separate_teacher: SeparateTeacher | None
    projections: PyTree | None
    objective: HasProjections
    optimizer: optax.GradientTransformationExtraArgs
    make_step: Callable[[int], FlaggedStep]
    source: GroupSource
    postprocess: Postprocess
    weights_at_0: Mapping[str, TermWeight]
    record: RunRecord

    @property
    def initial(self) -> dict[str, PyTree]:
        """The weights that the first state is made of."""
        return {**self.student.variables, "projections": self.projections}

    @property
    def teacher_variables(self) -> PyTree:
        """The second argument of the step."""
        return variables_of(self.teacher)

    @property
    def step(self) -> FlaggedStep:
        """The train step of the config's number of micro-batches."""
        return self.make_step(self.config.gradient_accumulation_steps)

    def start(self, initial: PyTree) -> TrainState:
        """The state before the first step, as a function of :attr:`initial`."""
        return init_train_state(
            dataclasses.replace(self.student, params=initial["params"], state=initial["state"]),
            self.objective,
            self.optimizer,
            seed=self.config.seed,
            precision=policy_of(self.config),
            projections=initial["projections"],
        )

    def first_batches(self) -> tuple[Any, ...]:
        """The batches of the first step; an iterator loses them."""
        batches = tuple(
            as_batch(self.postprocess(batch, lambda: (self.student.params, self.student.state)))
            for batch in next(self.source(start=None)).batches
        )
        if self.separate_teacher is not None:
            batches = tuple(map(self.separate_teacher.shapes, batches))
        return batches


class Fitted(NamedTuple):
    """A student after its training, or after the part of it that an error has left.

    Attributes:
        student: With the trained weights.
        projections: The trained projections.
        result: For the caller of ``train``.
    """

    student: Model
    projections: PyTree
    result: Result


def check(prepared: Prepared, callback: Callable[..., Any] | None = None) -> Plan:
    """Traces the first step on shapes; returns the plan.

    Args:
        prepared: The training.
        callback: As for :func:`fit`.

    Raises:
        UsageError: Something does not fit.
    """
    _require_callback(callback)
    batches = prepared.first_batches()
    _, (scalars, _) = jax.jit(prepared.step).eval_shape(  # the training reuses its trace
        jax.eval_shape(prepared.start, prepared.initial),
        prepared.teacher_variables,
        batches if len(batches) > 1 else batches[0],
    )
    scores = () if callback is None else getattr(callback, "metrics", None)
    if scores is not None:  # otherwise known once the callback has returned
        require_best_metric(prepared.config, {*scalars.tree.metrics, *scores})
    return dataclasses.replace(prepared.plan, facts=scalars.facts)


def estimate(prepared: Prepared) -> Estimate:
    """Compiles the first step for shapes; returns what it needs of each device.

    Raises:
        UsageError: Something does not fit.
    """

    def compiled(step: FlaggedStep, batch: Any) -> Estimate:
        return estimate_step(
            step,
            prepared.start,
            prepared.initial,
            batch,
            prepared.config,
            student=prepared.student,
            teachers=prepared.teacher,
            teacher_variables=prepared.teacher_variables,
        )

    batches = prepared.first_batches()
    alone = compiled(prepared.make_step(1), batches[0])
    if len(batches) == 1:
        return alone
    # The compiler counts the body of a loop once, however often it runs.
    whole = compiled(prepared.step, batches)
    return dataclasses.replace(whole, flops=len(batches) * alone.flops)


def fit(
    prepared: Prepared, callback: Callable[..., Any] | None, keep: Callable[[Fitted], None]
) -> None:
    """Trains the student.

    Args:
        prepared: The training.
        callback: ``callback(model=student, step=step)``, called after each checkpoint.
        keep: Called with the trained student, also if an error or Ctrl-C ends the training.
    """
    _require_callback(callback)
    _warn_of_half_weights(prepared)
    config, student = prepared.config, prepared.student
    with contextlib.ExitStack() as stack:
        is_preempted: Callable[[int], bool] = lambda step: False  # noqa: E731
        if config.output_dir is not None:
            is_preempted = stack.enter_context(watch_sigterm())
        layout = make_layout(config)
        with on_device(config):
            state = init_state(prepared.start, prepared.initial, student, layout)
            teacher = place_teacher(prepared.teacher_variables, prepared.teacher, layout)

        def keep_state(state: TrainState, history: loop.History) -> None:
            params = evaluation_params(state)
            weights = readable((params, state.model_state))
            keep(
                Fitted(
                    dataclasses.replace(student, params=params, state=state.model_state),
                    state.trainable["projections"],
                    Result(student.write_back(*weights), history),
                )
            )

        loop.fit(
            prepared.step,
            state,
            teacher,
            prepared.source,
            config=config,
            plan=prepared.plan,
            layout=layout,
            separate_teacher=prepared.separate_teacher,
            weights_at_0=prepared.weights_at_0,
            settings=configs_as_json(config, prepared.record.distill_configs),
            run_directory=open_run(config, prepared.record.distill_configs, _facts(prepared)),
            keep=keep_state,
            postprocess=lambda batch, state: prepared.postprocess(
                batch, lambda: (evaluation_params(state), state.model_state)
            ),
            on_checkpoint=functools.partial(_call_back, student, callback),
            has_scores=callback is not None,
            initial=prepared.initial,
            is_preempted=is_preempted,
        )


def _warn_of_half_weights(prepared: Prepared) -> None:
    """Warns of weights whose dtype is too coarse for the steps of most trainings."""
    if policy_of(prepared.config).param is not None:
        return
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(prepared.student.params)}
    halves = sorted(kinds & {"bfloat16", "float16"})
    if halves:
        warnings.warn(
            f"The student's weights are {halves[0]}: a step smaller than "
            f"{jnp.finfo(halves[0]).eps / 2:.1g} of a weight does not change it. "
            "TrainingConfig(fp16=True, half_dtype='bfloat16') trains float32 weights and computes "
            "in bfloat16.",
            stacklevel=5,
        )


def _require_callback(callback: Any) -> None:
    if callback is None:
        return
    if not callable(callback):
        raise UsageError(
            "callback must be a function callback(model=student, step=step), got "
            f"{type(callback).__name__}."
        )
    try:
        inspect.signature(callback).bind(model=None, step=0)
    except TypeError as error:
        raise UsageError(
            f"callback is called as callback(model=student, step=step): {error}."
        ) from None
    except ValueError:  # a function without a signature
        pass


def _call_back(
    student: Model, callback: Callable[..., Any] | None, step: int, state: TrainState
) -> loop.AfterCheckpoint:
    """Calls the callback with a copy of the student, in process 0; all learn whether it stops."""
    if callback is None:
        return loop.AfterCheckpoint()
    weights = gather((evaluation_params(state), state.model_state))
    scores, stops = None, False
    if jax.process_index() == 0:
        try:
            scores = callback(model=student.export(*weights), step=step)
        except StopTraining as stop:
            scores, stops = stop.scores, True
    scores, stops = broadcast_json([_plain(scores), stops])
    return loop.AfterCheckpoint(scores, stops)


def _plain(scores: Any) -> dict[str, float] | None:
    if not isinstance(scores, Mapping):
        return None
    return {name: float(value) for name, value in scores.items()}


def _facts(prepared: Prepared) -> dict[str, Any]:
    """The models, the optimizer and the length, as the run's manifest records them."""
    if prepared.config.output_dir is None:
        return {}
    return {
        "distiller": prepared.record.distiller,
        "total_steps": prepared.plan.total_steps,
        "steps_per_epoch": prepared.plan.steps_per_epoch,
        "optimizer": closure_settings(prepared.optimizer.update),
        "teacher": prepared.record.teacher_fingerprint(),
        "caches": identities(prepared.config.cache_dir),
        "parameters": {
            name: sum(leaf.size for leaf in jax.tree.leaves(model.params))
            for name, model in prepared.record.models.items()
        },
        **prepared.record.more_facts(),
    }


def named_models(teacher: Teacher, name: str = "teacher{}") -> dict[str, Model]:
    """A teacher, or several with their numbers, by their names in a manifest."""
    if teacher is None or isinstance(teacher, Model):
        return {} if teacher is None else {name.format(""): teacher}
    return {name.format(f" {index}"): model for index, model in enumerate(teacher)}


def require_config(field: str, value: Any, kind: type) -> None:
    """Raises :class:`UsageError` if ``value`` is not a config of this kind."""
    if not isinstance(value, kind):
        raise UsageError(f"{field} must be a {kind.__name__}, got {type(value).__name__}.")
