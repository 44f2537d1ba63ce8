"""The gradient of a step, of one batch or of a group of micro-batches as if they were one batch.

The teacher runs outside the differentiated function, on weights that are arguments. Micro-batches
contribute sums; each loss is divided once, by the count of the whole group.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ..errors import UsageError
from ..forward.model import Batch, PyTree
from ..losses import Mean
from ..objective.objective import Metrics, ObjectiveState, Terms
from .state import TrainState

Weights = tuple[PyTree, PyTree]
"""``(trainable, model_state)``."""
Counts = Any
"""The counts of :data:`Terms`, in the same structure."""
GradientOf = Callable[[TrainState, PyTree, Batch], tuple[PyTree, Terms, PyTree]]
"""``(state, teacher_variables, batch) -> (gradient, terms, model_state)``."""

ValueOf = Callable[[TrainState, PyTree, Batch, PyTree], jax.Array]
"""``(state, teacher_variables, batch, trainable) -> loss``."""


class Forwards(NamedTuple):
    """Both models' forward passes, as a step runs them.

    Attributes:
        targets_of: ``(state, teacher_variables, batch) -> targets``; runs the teacher.
        terms_of: ``(state, weights, batch, key, targets) -> (terms, model_state)``; runs the
            student on ``weights``, by whose first part the terms are differentiated.
    """

    targets_of: Callable[[TrainState, PyTree, Batch], Any]
    terms_of: Callable[[TrainState, Weights, Batch, jax.Array, Any], tuple[Terms, PyTree]]


class CombinesTerms(Protocol):
    """The part of an :class:`~jaxbrewer.Objective` that makes one loss of its terms."""

    def combine(self, terms: Terms, step: jax.Array | int = 0) -> tuple[jax.Array, Metrics]:
        """The total loss and the metrics."""
        ...

    def next_state(self, state: ObjectiveState, terms: Terms) -> ObjectiveState:
        """The state of the losses after a step."""
        ...


def make_gradient(
    forwards: Forwards, objective: CombinesTerms, *, micro_batches: int = 1
) -> GradientOf:
    """Builds ``gradient_of(state, teacher_variables, batch)``, the gradient by the trainables.

    Args:
        forwards: Both models.
        objective: Combines terms into the loss.
        micro_batches: With more than one, ``batch`` is a tuple of that many batches. They may
            differ in shape; the gradient is that of one batch of them all, summed in float32.

    Returns:
        A function that returns the gradient without the loss scale, the terms of the whole batch
        and the student's new mutable state.
    """

    def counts_of(state: TrainState, variables: PyTree, batch: Batch, key: jax.Array) -> Counts:
        # Counts depend on masks and shapes, not on what a model computes: in the compiled
        # program nothing of either model is left of this call.
        targets = forwards.targets_of(state, variables, batch)
        weights = (state.trainable, state.model_state)
        return _counts(forwards.terms_of(state, weights, batch, key, targets)[0])

    def of_batch(
        state: TrainState,
        variables: PyTree,
        batch: Batch,
        key: jax.Array,
        model_state: PyTree,
        counts: Counts | None = None,
    ) -> tuple[PyTree, Terms, PyTree]:
        targets = forwards.targets_of(state, variables, batch)

        def loss(trainable: PyTree) -> tuple[jax.Array, tuple[Terms, PyTree]]:
            weights = (trainable, model_state)
            terms, new_state = forwards.terms_of(state, weights, batch, key, targets)
            total, _ = objective.combine(_divided_by(counts, terms), state.step)
            return total * _scale(state), (terms, new_state)

        gradient, (terms, new_state) = jax.grad(loss, has_aux=True)(state.trainable)
        return gradient, terms, new_state

    def of_group(
        state: TrainState, variables: PyTree, batches: Sequence[Batch], key: jax.Array
    ) -> tuple[PyTree, Terms, PyTree]:
        keys = jax.random.split(key, len(batches))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), state.trainable
        )

        def add(
            carry: tuple[PyTree, PyTree], batch: Batch, key: jax.Array, counts: Counts
        ) -> tuple[tuple[PyTree, PyTree], Terms]:
            total, model_state = carry
            gradient, terms, model_state = of_batch(
                state, variables, batch, key, model_state, counts
            )
            return (jax.tree.map(jnp.add, total, gradient), model_state), terms

        if _same_shapes(batches):  # one loop body, whatever the number of batches
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
            _, counts = jax.lax.scan(
                lambda _, x: (None, counts_of(state, variables, *x)), None, (stacked, keys)
            )
            counts = jax.tree.map(lambda x: jnp.sum(x, axis=0), counts)
            (gradient, model_state), terms = jax.lax.scan(
                lambda carry, x: add(carry, *x, counts), (zeros, state.model_state), (stacked, keys)
            )
            return gradient, jax.tree.map(lambda x: jnp.sum(x, axis=0), terms), model_state
        pairs = list(zip(batches, keys, strict=True))
        counts = add_terms(*(counts_of(state, variables, batch, key) for batch, key in pairs))
        carry, every = (zeros, state.model_state), []
        for batch, key in pairs:
            carry, terms = add(carry, batch, key, counts)
            every.append(terms)
        return carry[0], add_terms(*every), carry[1]

    def gradient_of(
        state: TrainState, teacher_variables: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        key = jax.random.fold_in(state.key, state.step)
        if micro_batches == 1:
            gradient, terms, model_state = of_batch(
                state, teacher_variables, batch, key, state.model_state
            )
        else:
            batches = _checked_group(batch, micro_batches)
            gradient, terms, model_state = of_group(state, teacher_variables, batches, key)
        scale = _scale(state)
        gradient = jax.tree.map(lambda g, p: (g / scale).astype(p.dtype), gradient, state.trainable)
        return gradient, terms, model_state

    return gradient_of


def make_value(forwards: Forwards, objective: CombinesTerms, *, micro_batches: int = 1) -> ValueOf:
    """Builds ``value_of(state, teacher_variables, batch, trainable)``, the loss at any weights.

    It has the dropout of the step, so that a line search compares like with like.
    """

    def value_of(
        state: TrainState, teacher_variables: PyTree, batch: Batch, trainable: PyTree
    ) -> jax.Array:
        key = jax.random.fold_in(state.key, state.step)
        pairs: Any = [(batch, key)]
        if micro_batches > 1:
            pairs = zip(batch, jax.random.split(key, micro_batches), strict=True)
        weights = (trainable, state.model_state)
        terms = [
            forwards.terms_of(
                state, weights, part, own, forwards.targets_of(state, teacher_variables, part)
            )[0]
            for part, own in pairs
        ]
        return objective.combine(add_terms(*terms), state.step)[0]

    return value_of


def add_terms(*terms: Terms) -> Terms:
    """The terms of several batches taken together: sums and counts added up.

    Args:
        *terms: Those of each batch; a term may be missing in some.

    Examples:
        >>> from jaxbrewer.losses import Mean
        >>> first, second = {"loss": (Mean(3.0, 2.0),)}, {"loss": (Mean(9.0, 1.0),)}
        >>> print(add_terms(first, second)["loss"][0].value())
        4.0
    """
    return {
        name: jax.tree.map(lambda *leaves: sum(leaves), *(t[name] for t in terms if name in t))
        for name in dict.fromkeys(name for each in terms for name in each)
    }


def _scale(state: TrainState) -> jax.Array:
    return jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale


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


def _same_shapes(batches: Sequence[Batch]) -> bool:
    def signature(batch: Batch) -> Any:
        leaves, treedef = jax.tree.flatten(batch)
        return treedef, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    return all(signature(batch) == signature(batches[0]) for batch in batches[1:])
