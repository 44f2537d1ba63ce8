"""One optimizer step as a pure function, and evaluation; the caller jits."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..data.batch_parts import student_part
from ..forward.adaptors import Adaptor
from ..forward.bfloat16_products import fast_on_cpu
from ..forward.call_arguments import check_arguments
from ..forward.forward_pass import make_forward
from ..forward.model import Batch, Model, PyTree
from ..forward.precision import AS_GIVEN, Policy
from ..objective.ensemble import Targets
from ..objective.objective import Metrics, Objective, Terms
from .gradients import CombinesTerms, Forwards, Weights, make_gradient, make_value
from .optimizer import global_norm, with_accepted_args
from .state import TrainState, learning_rate_of
from .teachers import Adaptors, Teacher, make_teacher_forward, models_of

TrainStep = Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, PyTree, Batch], Terms]
GradientMetrics = Callable[[PyTree], Metrics]
"""``gradient -> metrics``."""


def make_train_step(
    student: Model,
    teacher: Teacher,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    adaptor_S: Adaptor,
    adaptor_T: Adaptors = None,
    gradient_accumulation_steps: int = 1,
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
    extra_metrics: GradientMetrics = lambda gradient: {},
) -> TrainStep:
    """Builds ``train_step(state, teacher_variables, batch) -> (state, metrics)``.

    Args:
        student: The student; its weights come from the state.
        teacher: The teacher, a sequence of several, or ``None`` to train on the student's own
            losses.
        objective: The total loss.
        optimizer: The transformation that made the state's ``opt_state``.
        adaptor_S: The student's adaptor.
        adaptor_T: The teacher's; for several teachers one each, or one for all.
        gradient_accumulation_steps: With more than one, ``batch`` is a tuple of that many
            batches; they may differ in shape, and the step is that of one batch of them all.
        precision: The dtypes.
        args: Further arguments of the models that take them; ``args_S`` and ``args_T`` hold
            those of one.
        extra_metrics: Further metrics, of the gradient before clipping.

    Returns:
        A pure function of the :class:`~jaxbrewer.TrainState` (donate it), ``teacher.variables``
        (a tuple for several, ``None`` without one; never donate it) and a batch. Metrics are the
        objective's and ``grad_norm``, before clipping; ``learning_rate`` of an optimizer from
        ``optax.inject_hyperparams``; with loss scaling, ``loss_scale`` and ``skipped_steps``.
    """
    check_arguments(args, (student, *models_of(teacher)))
    student_forward = make_forward(
        student, adaptor_S, "student", precision, args, objective.student_modules
    )
    teacher_forward = make_teacher_forward(
        teacher, adaptor_T, objective, precision=precision, args=args
    )

    def targets_of(state: TrainState, teacher_variables: PyTree, batch: Batch) -> Targets | None:
        return teacher_forward(teacher_variables, batch, state.step)

    def terms_of(
        state: TrainState, weights: Weights, batch: Batch, key: jax.Array, targets: Targets | None
    ) -> tuple[Terms, PyTree]:
        trainable, model_state = weights
        variables = {"params": trainable["student"], "state": model_state}
        outputs, model_state = student_forward(variables, student_part(batch), None, key)
        projections = trainable["projections"]
        terms = objective.terms(outputs, targets, projections, state.step, state.objective_state)
        return terms, model_state

    return make_step(
        Forwards(targets_of, terms_of),
        objective,
        optimizer,
        micro_batches=gradient_accumulation_steps,
        extra_metrics=extra_metrics,
    )


def make_step(
    forwards: Forwards,
    objective: CombinesTerms,
    optimizer: optax.GradientTransformation,
    *,
    micro_batches: int = 1,
    extra_args: Callable[[Sequence[Batch]], dict[str, Any]] = lambda batches: {},
    extra_metrics: GradientMetrics = lambda gradient: {},
) -> TrainStep:
    """Builds a train step of any forward passes.

    Args:
        forwards: Both models.
        objective: Combines terms and updates its state from them.
        optimizer: The transformation that made the state's ``opt_state``.
        micro_batches: Batches in a step; with more than one, a step takes a tuple of them.
        extra_args: ``batches -> keyword arguments`` of the optimizer, fixed when it is traced.
        extra_metrics: As for :func:`make_train_step`.
    """
    gradient_of = make_gradient(forwards, objective, micro_batches=micro_batches)
    value_of = make_value(forwards, objective, micro_batches=micro_batches)
    optimizer = with_accepted_args(optimizer)

    @fast_on_cpu
    def train_step(
        state: TrainState, teacher_variables: PyTree, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        gradient, terms, model_state = gradient_of(state, teacher_variables, batch)
        loss, metrics = objective.combine(terms, state.step)
        metrics |= {"grad_norm": global_norm(gradient), **extra_metrics(gradient)}
        batches = (batch,) if micro_batches == 1 else batch
        moved = dataclasses.replace(
            apply_gradient(
                state,
                gradient,
                optimizer,
                value=loss,
                grad=gradient,
                value_fn=functools.partial(value_of, state, teacher_variables, batch),
                **extra_args(batches),
            ),
            model_state=model_state,
            objective_state=objective.next_state(state.objective_state, terms),
        )
        metrics |= learning_rate_of(moved.opt_state)
        return skip_overflow(state, moved, metrics)

    return train_step


def apply_gradient(
    state: TrainState,
    gradient: PyTree,
    optimizer: optax.GradientTransformationExtraArgs,
    **extra_args: Any,
) -> TrainState:
    """The state after a step of the optimizer: weights and ``opt_state`` move, ``step`` counts."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable, **extra_args)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        trainable=optax.apply_updates(state.trainable, updates),
        opt_state=opt_state,
    )


def skip_overflow(
    state: TrainState, moved: TrainState, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """``moved``, or ``state`` with a smaller loss scale if the gradient is not finite.

    Without a loss scale, ``moved`` as it is.
    """
    if state.loss_scale is None:
        return moved, metrics
    finite = jnp.isfinite(metrics["grad_norm"])
    moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
    loss_scale = state.loss_scale.after(finite)
    metrics = {
        **metrics,
        "loss_scale": state.loss_scale.scale,
        "skipped_steps": loss_scale.skipped,
    }
    return dataclasses.replace(moved, loss_scale=loss_scale), metrics


def make_eval_step(
    student: Model,
    teacher: Teacher,
    objective: Objective,
    *,
    adaptor_S: Adaptor,
    adaptor_T: Adaptors = None,
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
) -> EvalStep:
    """Builds ``eval_step(state, teacher_variables, batch) -> terms``, both models in evaluation.

    Terms are sums and counts: add those of all batches with :func:`add_terms`, then
    ``objective.combine(terms, state.step)`` gives the exact loss and metrics of the whole data set.

    Args:
        student: The student.
        teacher: As for :func:`make_train_step`.
        objective: The losses.
        adaptor_S: The student's adaptor.
        adaptor_T: The teacher's; for several teachers one for all, or one for each.
        precision: The dtypes.
        args: Further keyword arguments of every call of any model.
    """
    check_arguments(args, (student, *models_of(teacher)))
    student_forward = make_forward(
        student, adaptor_S, "student", precision, args, objective.student_modules
    )
    teacher_forward = make_teacher_forward(
        teacher, adaptor_T, objective, precision=precision, args=args
    )

    @fast_on_cpu
    def eval_step(state: TrainState, teacher_variables: PyTree, batch: Batch) -> Terms:
        variables = {"params": state.params, "state": state.model_state}
        outputs, _ = student_forward(variables, student_part(batch), None, None)
        targets = teacher_forward(teacher_variables, batch, state.step)
        projections, objective_state = state.trainable["projections"], state.objective_state
        return objective.terms(outputs, targets, projections, state.step, objective_state)

    return eval_step
