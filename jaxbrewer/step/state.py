"""The state that a training carries from step to step, and the first one."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ..forward.freezing import require_floating
from ..forward.model import Model, PyTree
from ..forward.precision import AS_GIVEN, LossScale, Policy
from ..objective.objective import ObjectiveState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only; a checkpoint is this and the position in the data.

    Attributes:
        step: Optimizer steps so far, int32 scalar.
        trainable: ``{"student": params, "projections": {...}}``, moved by the optimizer.
        model_state: The student's mutable state (batch statistics); ``{}`` for most.
        opt_state: The optimizer's state.
        loss_scale: For float16, else ``None``.
        key: PRNG key; step ``n`` draws from ``fold_in(key, n)``, so a resumed run draws the same.
        objective_state: The state of losses that have one; ``{}`` for most.
    """

    step: jax.Array
    trainable: dict[str, PyTree]
    model_state: PyTree
    opt_state: PyTree
    loss_scale: LossScale | None
    key: jax.Array
    objective_state: ObjectiveState = dataclasses.field(default_factory=dict)

    @property
    def params(self) -> PyTree:
        """The student's weights."""
        return self.trainable["student"]


class HasProjections(Protocol):
    """The part of an :class:`~jaxbrewer.Objective` that the first state depends on."""

    @property
    def projected(self) -> Mapping[str, Any]:
        """The matches that have a projection, by its name."""
        ...

    def init_projections(self, key: jax.Array) -> PyTree:
        """New projections."""
        ...

    def init_state(self) -> ObjectiveState:
        """The state of the losses before the first step."""
        ...


def init_train_state(
    student: Model,
    objective: HasProjections,
    optimizer: optax.GradientTransformation,
    *,
    seed: int | jax.Array = 0,
    precision: Policy = AS_GIVEN,
    projections: PyTree | None = None,
) -> TrainState:
    """Builds the state before the first step, with copies of the student's weights.

    Args:
        student: The student, whose arrays stay valid when the state is donated.
        objective: Its matches have the projections.
        optimizer: From :func:`make_optimizer`, or any optax transformation.
        seed: A seed or a PRNG key.
        precision: The dtypes.
        projections: Initial projections, copied as well; ``None`` draws new ones.

    Raises:
        UsageError: A parameter is not of a floating-point dtype.

    Examples:
        >>> from jaxbrewer import DistillationConfig, as_model, make_objective
        >>> student = as_model((lambda params, x: x * params["w"], {"w": jnp.ones(3)}))
        >>> objective = make_objective(DistillationConfig())
        >>> state = init_train_state(student, objective, optax.sgd(0.1))
        >>> print(state.step, state.params["w"].shape)
        0 (3,)
    """
    require_floating(student.params)
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    init_key, key = jax.random.split(key)
    if projections is None:
        projections = objective.init_projections(init_key)
    trainable = precision.cast_to_param(
        copy_arrays({"student": student.params, "projections": projections})
    )
    opt_state = _without_shared_buffers(optimizer.init(trainable), trainable)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        model_state=copy_arrays(student.state),
        opt_state=opt_state,
        loss_scale=LossScale.start() if precision.loss_scaling else None,
        key=key,
        objective_state=objective.init_state(),
    )


def with_hyperparameters_of(opt_state: PyTree, other: PyTree) -> PyTree:
    """``opt_state`` with the hyperparameters that ``optax.inject_hyperparams`` keeps in ``other``.

    Schedules compute theirs anew in every step; constants stay what they are in the state.
    """

    def adopt(own: Any, new: Any) -> Any:
        if not _has_hyperparameters(own):
            return own
        inner = with_hyperparameters_of(own.inner_state, new.inner_state)
        return own._replace(hyperparams=new.hyperparams, inner_state=inner)

    return jax.tree.map(adopt, opt_state, other, is_leaf=_has_hyperparameters)


def learning_rate_of(opt_state: PyTree) -> dict[str, jax.Array]:
    """The learning rate of the last step as a metric, if ``optax.inject_hyperparams`` keeps it.

    Of several optimizers it is the student's, which follows those of the projections in the tree.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_has_hyperparameters)
    rates = (node.hyperparams for node in nodes if _has_hyperparameters(node))
    found = [rate["learning_rate"] for rate in rates if "learning_rate" in rate]
    return {"learning_rate": found[-1]} if found and jnp.ndim(found[-1]) == 0 else {}


def _has_hyperparameters(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _without_shared_buffers(tree: PyTree, others: PyTree) -> PyTree:
    """``tree`` with copies of the arrays that occur in ``others`` or more than once in ``tree``.

    Some optimizers keep the first weights in their state; a buffer can be donated only once.
    """
    seen = set(map(_buffer, jax.tree.leaves(others)))

    def separate(leaf: Any) -> Any:
        if _buffer(leaf) in seen:
            return jnp.array(leaf, copy=True)
        seen.add(_buffer(leaf))
        return leaf

    return jax.tree.map(separate, tree)


def _buffer(leaf: Any) -> Any:
    """What identifies the memory of an array."""
    is_local = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if is_local and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) and leaf.size:
        return leaf.addressable_shards[0].data.unsafe_buffer_pointer()
    return id(leaf)


def evaluation_params(state: TrainState) -> PyTree:
    """The student's weights for evaluation.

    They differ from those that are trained under ``optax.contrib.schedule_free``, which averages,
    and under ``optax.contrib.sam``, which steps away from the weights and back.

    Args:
        state: The state of a training.

    Returns:
        The weights in the structure of ``state.params``.
    """
    params = state.params
    for node in jax.tree.leaves(
        _of_student(state.opt_state), is_leaf=lambda node: isinstance(node, _AVERAGING)
    ):
        if isinstance(node, optax.contrib.ScheduleFreeState):
            params = optax.contrib.schedule_free_eval_params(node, params)
        elif isinstance(node, optax.contrib.SAMState) and node.cache is not None:
            choose = functools.partial(jnp.where, node.steps_since_sync == 0)
            params = jax.tree.map(choose, params, node.cache)
    return params


_AVERAGING = (optax.contrib.ScheduleFreeState, optax.contrib.SAMState)


def _of_student(opt_state: PyTree) -> PyTree:
    """The student's part of the state of an optimizer from :func:`make_optimizer`."""

    def is_grouped(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == {"student", "projections"}

    groups = filter(is_grouped, jax.tree.leaves(opt_state, is_leaf=is_grouped))
    return next((group["student"] for group in groups), opt_state)


def copy_arrays(tree: PyTree) -> PyTree:
    """New buffers with the same values, which may be donated."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
