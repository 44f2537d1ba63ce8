"""One optimizer update as a pure function, and evaluation; the caller jits.

The teacher runs outside the differentiated function, in evaluation mode, on weights that are
arguments. Micro-batches contribute sums; each loss is divided once, by the count of all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ..data.batch_parts import student_part
from ..errors import UsageError
from ..forward.adaptors import Adaptor
from ..forward.forward_pass import make_forward
from ..forward.model import Batch, Model, PyTree
from ..forward.precision import AS_GIVEN, Policy
from ..losses import Mean
from ..objective.ensemble import Targets
from ..objective.objective import Metrics, Objective, ObjectiveState, Terms
from .optimizer import global_norm
from .state import TrainState
from .teachers import Adaptors, Teacher, make_teach

TrainStep = Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, PyTree, Batch], Terms]
Weights = tuple[PyTree, PyTree]
"""``(trainable, model_state)``."""
Observe = Callable[[PyTree], Metrics]
"""``gradient -> metrics``."""


class Combines(Protocol):
    """The part of an :class:`~jaxbrewer.Objective` that makes one loss of its terms."""

    def combine(self, terms: Terms, step: jax.Array | int = 0) -> tuple[jax.Array, Metrics]:
        """The total loss and the metrics."""
        ...

    def next_state(self, state: ObjectiveState, terms: Terms) -> ObjectiveState:
        """What losses remember after an update."""
        ...


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
    observe: Observe = lambda gradient: {},
) -> TrainStep:
    """Builds ``train_step(state, teacher_variables, batch) -> (state, metrics)``.

    Args:
        student: The student; its weights come from the state.
        teacher: The teacher, a sequence of several, or ``None`` to train on the student's own
            losses.
        objective: The total loss.
        optimizer: What made the state's ``opt_state``.
        adaptor_S: The student's adaptor.
        adaptor_T: The teacher's; for several teachers one each, or one for all.
        gradient_accumulation_steps: With more than one, ``batch`` is a tuple of that many
            batches; they may differ in shape, and the update is that of one batch of them all.
        precision: The dtypes.
        args: Further keyword arguments of every call of either model.
        observe: Further metrics, of the gradient before clipping.

    Returns:
        A pure function of the :class:`~jaxbrewer.TrainState` (donate it), ``teacher.variables``
        (a tuple for several, ``None`` without one; never donate it) and a batch. Metrics are the
        objective's and ``grad_norm``, before clipping; with loss scaling, ``loss_scale`` and
        ``skipped_steps``.
    """
    learn = make_forward(student, adaptor_S, "student", precision, args, objective.student_modules)
    teach = make_teach(teacher, adaptor_T, objective, precision=precision, args=args)

    def targets_of(state: TrainState, teacher_variables: PyTree, batch: Batch) -> Targets | None:
        return teach(teacher_variables, batch, state.step)

    def terms_of(
        state: TrainState, weights: Weights, batch: Batch, key: jax.Array, targets: Targets | None
    ) -> tuple[Terms, PyTree]:
        trainable, model_state = weights
        variables = {"params": trainable["student"], "state": model_state}
        outputs, model_state = learn(variables, student_part(batch), None, key)
        projections = trainable["projections"]
        terms = objective.terms(outputs, targets, projections, state.step, state.objective_state)
        return terms, model_state

    return make_update(
        targets_of,
        terms_of,
        objective,
        optimizer,
        gradient_accumulation_steps=gradient_accumulation_steps,
        observe=observe,
    )


def make_update(
    targets_of: Callable[[TrainState, PyTree, Batch], Any],
    terms_of: Callable[[TrainState, Weights, Batch, jax.Array, Any], tuple[Terms, PyTree]],
    objective: Combines,
    optimizer: optax.GradientTransformation,
    *,
    gradient_accumulation_steps: int,
    extra_args: Callable[[Sequence[Batch]], dict[str, Any]] = lambda batches: {},
    observe: Observe = lambda gradient: {},
) -> TrainStep:
    """Builds a train step of any way to get terms from a batch; see :func:`make_train_step`.

    Args:
        targets_of: ``(state, teacher_variables, batch) -> targets``, which is not differentiated.
        terms_of: ``(state, weights, batch, key, targets) -> (terms, model_state)``, which is, by
            the ``trainable`` of ``weights = (trainable, model_state)``.
        objective: What combines terms and updates its state from them.
        optimizer: What made the state's ``opt_state``.
        gradient_accumulation_steps: As for :func:`make_train_step`.
        extra_args: ``batches -> keyword arguments`` of the optimizer, fixed when it is traced.
        observe: As for :func:`make_train_step`.
    """
    accumulated = gradient_accumulation_steps
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(
        state: TrainState, teacher_variables: PyTree, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        def counts_of(batch: Batch, key: jax.Array) -> Counts:
            # Counts depend on masks and shapes, not on what a model computes: in the compiled
            # program nothing of either model is left of this call.
            targets = targets_of(state, teacher_variables, batch)
            terms, _ = terms_of(state, (state.trainable, state.model_state), batch, key, targets)
            return _counts(terms)

        def gradient_of(
            model_state: PyTree, batch: Batch, key: jax.Array, counts: Counts | None
        ) -> tuple[PyTree, Terms, PyTree]:
            targets = targets_of(state, teacher_variables, batch)

            def loss(trainable: PyTree) -> tuple[jax.Array, tuple[Terms, PyTree]]:
                weights = (trainable, model_state)
                terms, new_state = terms_of(state, weights, batch, key, targets)
                total, _ = objective.combine(_divided_by(counts, terms), state.step)
                return total * scale, (terms, new_state)

            gradient, (terms, new_state) = jax.grad(loss, has_aux=True)(state.trainable)
            return gradient, terms, new_state

        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        key = jax.random.fold_in(state.key, state.step)
        batches = (batch,) if accumulated == 1 else _checked_group(batch, accumulated)
        if accumulated == 1:
            gradient, terms, model_state = gradient_of(state.model_state, batch, key, None)
        else:
            gradient, terms, model_state = _accumulate(counts_of, gradient_of, state, batches, key)
        gradient = jax.tree.map(lambda g, p: (g / scale).astype(p.dtype), gradient, state.trainable)
        total, metrics = objective.combine(terms, state.step)
        norm = global_norm(gradient)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.trainable, value=total, **extra_args(batches)
        )
        moved = dataclasses.replace(
            state,
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            model_state=model_state,
            opt_state=opt_state,
            objective_state=objective.next_state(state.objective_state, terms),
        )
        metrics |= {"grad_norm": norm, **observe(gradient)}
        if state.loss_scale is not None:
            finite = jnp.isfinite(norm)
            moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
            loss_scale = state.loss_scale.after(finite)
            moved = dataclasses.replace(moved, loss_scale=loss_scale)
            metrics |= {"loss_scale": scale, "skipped_steps": loss_scale.skipped}
        return moved, metrics

    return train_step


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
    ``objective.combine(terms)`` gives the exact loss and metrics of the whole data set.
    """
    learn = make_forward(student, adaptor_S, "student", precision, args, objective.student_modules)
    teach = make_teach(teacher, adaptor_T, objective, precision=precision, args=args)

    def eval_step(state: TrainState, teacher_variables: PyTree, batch: Batch) -> Terms:
        variables = {"params": state.params, "state": state.model_state}
        outputs, _ = learn(variables, student_part(batch), None, None)
        targets = teach(teacher_variables, batch, state.step)
        projections, memory = state.trainable["projections"], state.objective_state
        return objective.terms(outputs, targets, projections, state.step, memory)

    return eval_step


def add_terms(*terms: Terms) -> Terms:
    """The terms of several batches taken together: sums and counts added up."""
    return {
        name: jax.tree.map(lambda *leaves: sum(leaves), *(t[name] for t in terms if name in t))
        for name in dict.fromkeys(name for each in terms for name in each)
    }


Counts = Any
"""The counts of :data:`Terms`, in the same structure."""


def _checked_group(batch: Batch, expected: int) -> Sequence[Batch]:
    if not isinstance(batch, (list, tuple)) or len(batch) != expected:
        raise UsageError(
            f"With gradient_accumulation_steps={expected}, a step takes a tuple of {expected} "
            "batches."
        )
    return batch


def _counts(terms: Terms) -> Counts:
    return {name: tuple(mean.count for mean in means) for name, means in terms.items()}


def _divided_by(counts: Counts | None, terms: Terms) -> Terms:
    """``terms`` with the counts of the whole group: its share in the group's loss."""
    if counts is None:
        return terms
    return {
        name: tuple(
            Mean(mean.total, count) for mean, count in zip(means, counts[name], strict=True)
        )
        for name, means in terms.items()
    }


def _accumulate(
    counts_of: Callable[..., Counts],
    gradient_of: Callable[..., tuple[PyTree, Terms, PyTree]],
    state: TrainState,
    batches: Sequence[Batch],
    key: jax.Array,
) -> tuple[PyTree, Terms, PyTree]:
    """The gradient of one batch that consists of ``batches``, summed in float32."""
    keys = jax.random.split(key, len(batches))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), state.trainable
    )

    def add(
        carry: tuple[PyTree, PyTree], batch: Batch, key: jax.Array, counts: Counts
    ) -> tuple[tuple[PyTree, PyTree], Terms]:
        total, model_state = carry
        gradient, terms, model_state = gradient_of(model_state, batch, key, counts)
        return (jax.tree.map(jnp.add, total, gradient), model_state), terms

    if _same_shapes(batches):  # one loop body, whatever the number of batches
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        _, counts = jax.lax.scan(lambda _, x: (None, counts_of(*x)), None, (stacked, keys))
        counts = jax.tree.map(lambda x: jnp.sum(x, axis=0), counts)
        (gradient, model_state), terms = jax.lax.scan(
            lambda carry, x: add(carry, *x, counts), (zeros, state.model_state), (stacked, keys)
        )
        return gradient, jax.tree.map(lambda x: jnp.sum(x, axis=0), terms), model_state
    parts = [counts_of(batch, key) for batch, key in zip(batches, keys, strict=True)]
    counts = add_terms(*parts)
    carry, every = (zeros, state.model_state), []
    for batch, key in zip(batches, keys, strict=True):
        carry, terms = add(carry, batch, key, counts)
        every.append(terms)
    return carry[0], add_terms(*every), carry[1]


def _same_shapes(batches: Sequence[Batch]) -> bool:
    def signature(batch: Batch) -> Any:
        leaves, treedef = jax.tree.flatten(batch)
        return treedef, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    return all(signature(batch) == signature(batches[0]) for batch in batches[1:])
