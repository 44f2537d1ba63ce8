"""Several tasks, one student: a batch knows its task, and the task chooses objective and teacher.

The task is part of a batch's structure, not of its values, so that one jitted step compiles once
per task and batch shape.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..data.batch_parts import student_part
from ..forward.adaptors import Adaptor
from ..forward.call_arguments import check_arguments
from ..forward.dependence import depends_on
from ..forward.forward_pass import make_forward
from ..forward.model import Batch, Model, PyTree
from ..forward.precision import AS_GIVEN, Policy
from ..losses import Mean
from ..objective.ensemble import Targets
from ..objective.objective import Metrics, Objective, ObjectiveState, Terms
from ..objective.term_weights import TermWeight
from .gradients import Forwards, Weights
from .state import TrainState
from .teachers import Adaptors, Teacher, make_teacher_forward, models_of
from .train_step import GradientMetrics, TrainStep, make_step

_BATCHES = "micro_batches"


@functools.partial(jax.tree_util.register_dataclass, data_fields=("batch",), meta_fields=("task",))
@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """A batch and its task."""

    task: str
    batch: Batch


@dataclasses.dataclass(frozen=True)
class TaskObjective:
    """The objectives of several tasks as one, for a group of micro-batches of any of them.

    A group's loss is the mean of its micro-batches' losses; those of one task count
    exactly as one batch of them all. Metrics are named ``<task>/<name>``, beside ``total_loss``.

    Attributes:
        objectives: By task; a task's name has no slash.
        micro_batches: Number of micro-batches in a step.
        shares_projections: Whether all tasks have one projection for each match. Otherwise each
            task has its own, by task.
    """

    objectives: dict[str, Objective]
    micro_batches: int = 1
    shares_projections: bool = False

    @property
    def projected(self) -> dict[str, Any]:
        """The matches that have a projection, by its name; by task unless tasks share them."""
        by_task = {task: objective.projected for task, objective in self.objectives.items()}
        return next(iter(by_task.values())) if self.shares_projections else by_task

    def init_projections(self, key: jax.Array) -> dict[str, PyTree]:
        """New projections in the structure of :attr:`projected`."""
        by_task = {
            task: objective.init_projections(jax.random.fold_in(key, index))
            for index, (task, objective) in enumerate(self.objectives.items())
        }
        return next(iter(by_task.values())) if self.shares_projections else by_task

    def weights_at(self, step: int = 0) -> dict[str, TermWeight]:
        """The weight of each term of each task after ``step`` steps."""
        return {
            f"{task}/{name}": weight
            for task, objective in self.objectives.items()
            for name, weight in objective.weights_at(step).items()
        }

    def init_state(self) -> dict[str, ObjectiveState]:
        """The state of each task's losses before the first step."""
        return {task: objective.init_state() for task, objective in self.objectives.items()}

    def next_state(self, state: dict[str, ObjectiveState], terms: Terms) -> dict[str, Any]:
        """The state after a step; tasks without a batch in it keep theirs."""
        parts = self._by_task(terms)
        return {
            task: self.objectives[task].next_state(own, parts[task]) if task in parts else own
            for task, own in state.items()
        }

    def terms(
        self,
        task: str,
        student: Any,
        targets: Targets | None,
        projections: dict[str, PyTree],
        step: jax.Array | int,
        state: dict[str, ObjectiveState],
    ) -> Terms:
        """The terms of one micro-batch, named after its task."""
        objective = self.objectives[task]
        own = projections if self.shares_projections else projections[task]
        terms = objective.terms(student, targets, own, step, state[task])
        one = jnp.ones((), jnp.float32)
        terms = {**terms, _BATCHES: (Mean(one, one),)}
        return {f"{task}/{name}": means for name, means in terms.items()}

    def combine(
        self, terms: Terms, step: jax.Array | int | None = None
    ) -> tuple[jax.Array, Metrics]:
        """The loss of a group, and the metrics of each task in it."""
        total: Any = 0.0
        metrics: Metrics = {}
        for task, part in self._by_task(terms).items():
            (batches,) = part.pop(_BATCHES)
            loss, own = self.objectives[task].combine(part, step)
            total = total + loss * (batches.count / self.micro_batches).astype(loss.dtype)
            metrics |= {f"{task}/{name}": value for name, value in own.items()}
        return total, {"total_loss": total, **metrics}

    @staticmethod
    def _by_task(terms: Terms) -> dict[str, Terms]:
        parts: dict[str, Terms] = {}
        for key, means in terms.items():
            task, _, name = key.partition("/")
            parts.setdefault(task, {})[name] = means
        return parts


def make_task_step(
    student: Model,
    teachers: Mapping[str, Teacher],
    objective: TaskObjective,
    optimizer: optax.GradientTransformation,
    *,
    adaptors_S: Mapping[str, Adaptor],
    adaptors_T: Mapping[str, Adaptors],
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
    extra_metrics: GradientMetrics = lambda gradient: {},
) -> TrainStep:
    """Builds ``train_step(state, teacher_variables, batch)`` for batches of any task.

    Args:
        student: The student, with a head for each task.
        teachers: By task: a teacher, several, or ``None``.
        objective: Of all tasks.
        optimizer: From :func:`~jaxbrewer.step.unused_parameters.skip_absent`.
        adaptors_S: By task: the student's adaptor, which returns the outputs of the task's head.
        adaptors_T: By task: the teacher's.
        precision: The dtypes.
        args: Further keyword arguments of every call of any model.
        extra_metrics: As for :func:`~jaxbrewer.make_train_step`.

    Returns:
        A train step as :func:`~jaxbrewer.make_train_step` builds it. ``teacher_variables`` is a
        dict by task, a batch is a :class:`TaskBatch`, or a tuple of them with accumulation.
    """
    return make_step(
        _task_forwards(student, teachers, objective, adaptors_S, adaptors_T, precision, args),
        objective,
        optimizer,
        micro_batches=objective.micro_batches,
        extra_args=lambda batches: {"present": sorted({batch.task for batch in batches})},
        extra_metrics=extra_metrics,
    )


def present_in(
    state: TrainState,
    teacher_variables: PyTree,
    batch: TaskBatch,
    student: Model,
    teachers: Mapping[str, Teacher],
    objective: TaskObjective,
    *,
    adaptors_S: Mapping[str, Adaptor],
    adaptors_T: Mapping[str, Adaptors],
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
) -> PyTree:
    """Which of ``state.trainable`` the loss of the batch's task depends on; only shapes matter."""
    forwards = _task_forwards(student, teachers, objective, adaptors_S, adaptors_T, precision, args)

    def loss(trainable: PyTree, state: TrainState, variables: PyTree, batch: TaskBatch) -> Any:
        targets = forwards.targets_of(state, variables, batch)
        weights = (trainable, state.model_state)
        terms, _ = forwards.terms_of(state, weights, batch, state.key, targets)
        return objective.combine(terms, state.step)[0]

    return depends_on(loss, state.trainable, state, teacher_variables, batch)


def _task_forwards(
    student: Model,
    teachers: Mapping[str, Teacher],
    objective: TaskObjective,
    adaptors_S: Mapping[str, Adaptor],
    adaptors_T: Mapping[str, Adaptors],
    precision: Policy,
    args: Mapping[str, Any],
) -> Forwards:
    """The forward passes of all tasks; a batch's task chooses among them."""
    check_arguments(args, (student, *itertools.chain(*map(models_of, teachers.values()))))
    student_forward = {
        task: make_forward(
            student,
            adaptor,
            f"student ({task})",
            precision,
            args,
            objective.objectives[task].student_modules,
        )
        for task, adaptor in adaptors_S.items()
    }
    teacher_forward = {
        task: make_teacher_forward(
            teacher,
            adaptors_T.get(task),
            objective.objectives[task],
            precision=precision,
            args=args,
        )
        for task, teacher in teachers.items()
    }

    def targets_of(state: TrainState, variables: PyTree, batch: TaskBatch) -> Targets | None:
        return teacher_forward[batch.task](variables[batch.task], batch.batch, state.step)

    def terms_of(
        state: TrainState,
        weights: Weights,
        batch: TaskBatch,
        key: jax.Array,
        targets: Targets | None,
    ) -> tuple[Terms, PyTree]:
        trainable, model_state = weights
        variables = {"params": trainable["student"], "state": model_state}
        own = student_part(batch.batch)
        outputs, new_state = student_forward[batch.task](variables, own, None, key)
        terms = objective.terms(
            batch.task,
            outputs,
            targets,
            trainable["projections"],
            state.step,
            state.objective_state,
        )
        return terms, new_state

    return Forwards(targets_of, terms_of)
