"""One optimizer update as a pure function, and evaluation; the caller jits.

The teacher runs outside the differentiated function, in evaluation mode, on weights that are
arguments. Micro-batches contribute sums; each loss is divided once, by the count of all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .adaptors import Adaptor
from .ensemble import Targets
from .errors import UsageError
from .forward import make_forward, student_part
from .functional import Batch, Model, PyTree
from .losses import Mean
from .objective import Metrics, Objective, Terms
from .precision import AS_GIVEN, Policy
from .state import TrainState
from .teachers import Adaptors, Teacher, make_teach

TrainStep = Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, PyTree, Batch], Terms]


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

    Returns:
        A pure function of the :class:`~jaxbrewer.TrainState` (donate it), ``teacher.variables``
        (a tuple for several, ``None`` without one; never donate it) and a batch. Metrics are the
        objective's and ``grad_norm``, before clipping; with loss scaling, ``loss_scale`` and
        ``skipped_steps``.
    """
    accumulated = gradient_accumulation_steps
    optimizer = optax.with_extra_args_support(optimizer)
    learn = make_forward(student, adaptor_S, "student", precision, args)
    teach = make_teach(teacher, adaptor_T, objective, precision=precision, args=args)

    def train_step(
        state: TrainState, teacher_variables: PyTree, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        def terms_of(
            trainable: PyTree, model_state: PyTree, batch: Batch, key: jax.Array, targets: Any
        ) -> tuple[Terms, PyTree]:
            variables = {"params": trainable["student"], "state": model_state}
            outputs, model_state = learn(variables, student_part(batch), None, key)
            terms = objective.terms(
                outputs, targets, trainable["projections"], state.step, state.objective_state
            )
            return terms, model_state

        def targets_of(batch: Batch) -> Targets | None:
            return teach(teacher_variables, batch, state.step)

        def counts_of(batch: Batch, key: jax.Array) -> Counts:
            # Counts depend on masks and shapes, not on what a model computes: in the compiled
            # program nothing of either model is left of this call.
            terms, _ = terms_of(state.trainable, state.model_state, batch, key, targets_of(batch))
            return _counts(terms)

        def gradient_of(
            model_state: PyTree, batch: Batch, key: jax.Array, counts: Counts | None
        ) -> tuple[PyTree, Terms, PyTree]:
            targets = targets_of(batch)

            def loss(trainable: PyTree) -> tuple[jax.Array, tuple[Terms, PyTree]]:
                terms, new_state = terms_of(trainable, model_state, batch, key, targets)
                total, _ = objective.combine(_divided_by(counts, terms), state.step)
                return total * scale, (terms, new_state)

            gradient, (terms, new_state) = jax.grad(loss, has_aux=True)(state.trainable)
            return gradient, terms, new_state

        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        key = jax.random.fold_in(state.key, state.step)
        if accumulated == 1:
            gradient, terms, model_state = gradient_of(state.model_state, batch, key, None)
        else:
            gradient, terms, model_state = _accumulate(
                counts_of, gradient_of, state, _checked_group(batch, accumulated), key
            )
        gradient = jax.tree.map(lambda g, p: (g / scale).astype(p.dtype), gradient, state.trainable)
        total, metrics = objective.combine(terms, state.step)
        norm = optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.trainable, value=total
        )
        moved = dataclasses.replace(
            state,
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            model_state=model_state,
            opt_state=opt_state,
            objective_state=objective.next_state(state.objective_state, terms),
        )
        metrics |= {"grad_norm": norm}
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
    learn = make_forward(student, adaptor_S, "student", precision, args)
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
    return jax.tree.map(lambda *leaves: sum(leaves), *terms)


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
    counts = jax.tree.map(lambda *leaves: sum(leaves), *parts)
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
