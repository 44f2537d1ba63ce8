r"""Optimal transport between the layers of two models, and layer weights that follow its costs.

Every student layer :math:`i` has a weight :math:`u_i`, every teacher layer :math:`j` a weight
:math:`v_j`. With the cost :math:`C_{ij}` of layer :math:`i` learning from layer :math:`j`, the plan

.. math:: F = \arg\min_{F \ge 0} \sum_{ij} F_{ij} C_{ij}
    \quad \text{with} \quad \sum_j F_{ij} = u_i, \; \sum_i F_{ij} = v_j

assigns teacher layers to student layers, and :math:`\sum_{ij} F_{ij} C_{ij}` is the loss. Plan and
weights have no gradient. Li et al., BERT-EMD, 2020, section 3, https://arxiv.org/abs/2010.06133,
solve it exactly on the host; here an entropic plan is computed in the compiled step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import UsageError
from ..losses import Mean

LAYER_WEIGHTS = ("student", "teacher")
"""Keys of the layers' weights in the objective's state."""

SMALLEST_COST = 1e-3
"""Least cost of a layer, relative to the largest: a perfect layer does not take all weight."""


def sinkhorn(
    cost: Float[Array, "student teacher"],
    u: Float[Array, " student"],
    v: Float[Array, " teacher"],
    *,
    epsilon: float = 0.01,
    iterations: int = 200,
) -> Float[Array, "student teacher"]:
    r"""The entropic transport plan, by Sinkhorn's algorithm on logarithms.

    .. math:: F = \arg\min \sum_{ij} F_{ij} C_{ij} + \epsilon \bar C \sum_{ij} F_{ij} \log F_{ij}

    The entropy falls from the largest cost to :math:`\epsilon \bar C` over the first half of the
    iterations, so that few iterations are enough.

    Args:
        cost: :math:`C`, not negative.
        u: Positive, with sum 1.
        v: Positive, with sum 1.
        epsilon: Relative to the mean cost.
        iterations: Number of iterations.

    Returns:
        The plan. Its rows sum to ``u`` and its columns to ``v``, even before convergence.

    Examples:
        >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> print(sinkhorn(cost, jnp.full(2, 0.5), jnp.full(2, 0.5)).round(3))
        [[0.5 0. ]
         [0.  0.5]]

    References:
        Peyré and Cuturi, Computational optimal transport, 2019, section 4.4,
        https://arxiv.org/abs/1803.00567; the exact sums after Altschuler et al., Near-linear time
        approximation algorithms for optimal transport, 2017, algorithm 2,
        https://arxiv.org/abs/1705.09634
    """
    last = epsilon * jnp.mean(cost) + jnp.finfo(cost.dtype).tiny
    first = jnp.maximum(jnp.max(cost), last)
    log_u, log_v = jnp.log(u), jnp.log(v)

    def iterate(g: Array, index: Array) -> tuple[Array, None]:
        share = jnp.minimum(1.0, 2.0 * index / iterations)
        eta = first * (last / first) ** share
        f = eta * (log_u - jax.nn.logsumexp((g[None, :] - cost) / eta, axis=1))
        g = eta * (log_v - jax.nn.logsumexp((f[:, None] - cost) / eta, axis=0))
        return g, None

    g, _ = jax.lax.scan(iterate, jnp.zeros_like(v), jnp.arange(iterations, dtype=cost.dtype))
    f = last * (log_u - jax.nn.logsumexp((g[None, :] - cost) / last, axis=1))
    g = last * (log_v - jax.nn.logsumexp((f[:, None] - cost) / last, axis=0))
    return _feasible(jnp.exp((f[:, None] + g[None, :] - cost) / last), u, v)


def _feasible(plan: Array, u: Array, v: Array) -> Array:
    """The plan with exact sums: surplus mass is scaled down, missing mass is spread."""
    plan = plan * jnp.minimum(1, u / jnp.sum(plan, axis=1))[:, None]
    plan = plan * jnp.minimum(1, v / jnp.sum(plan, axis=0))[None, :]
    lacks_u, lacks_v = u - jnp.sum(plan, axis=1), v - jnp.sum(plan, axis=0)
    total = jnp.sum(lacks_u)
    return plan + jnp.outer(lacks_u, lacks_v) / jnp.where(total > 0, total, 1)


class Transport(NamedTuple):
    r"""The loss, and the costs that the layers' weights follow, as sums and counts.

    Attributes:
        loss: :math:`\sum_{ij} F_{ij} C_{ij}`.
        cost_S: The unit cost of each student layer, ``[student]``.
        cost_T: The unit cost of each teacher layer, ``[teacher]``.
    """

    loss: Mean
    cost_S: Mean
    cost_T: Mean


def transport_loss(
    states_S: Sequence[Array],
    states_T: Sequence[Array],
    loss: Callable[..., Mean],
    u: Float[Array, " student"],
    v: Float[Array, " teacher"],
    *,
    epsilon: float,
    iterations: int,
) -> Transport:
    r"""The transport cost between layers; the gradient goes through the costs, not the plan.

    The unit cost of a student layer is :math:`\bar c_i = \sum_j F_{ij} C_{ij} / u_i`, that of a
    teacher layer :math:`\bar c_j = \sum_i F_{ij} C_{ij} / v_j`.

    Args:
        states_S: The student's layers, of one shape.
        states_T: The teacher's.
        loss: ``loss(state_S, state_T) -> Mean``.
        u: The student layers' weights.
        v: The teacher layers' weights.
        epsilon: See :func:`sinkhorn`.
        iterations: See :func:`sinkhorn`.

    Raises:
        UsageError: The layers of a model differ in shape.
    """
    pairs = jax.vmap(jax.vmap(loss, in_axes=(None, 0)), in_axes=(0, None))
    costs = pairs(_stacked("student", states_S), _stacked("teacher", states_T))
    count = costs.count[0, 0]
    values = jax.lax.stop_gradient(costs.total)  # the plan does not depend on a common scale
    u, v = u.astype(values.dtype), v.astype(values.dtype)
    plan = jax.lax.stop_gradient(sinkhorn(values, u, v, epsilon=epsilon, iterations=iterations))
    moved = plan * costs.total
    fixed = jax.lax.stop_gradient(moved)
    return Transport(
        Mean(jnp.sum(moved), count),
        Mean(jnp.sum(fixed, axis=1) / u, count),
        Mean(jnp.sum(fixed, axis=0) / v, count),
    )


def cost_attention(weights: Float[Array, " layers"], cost: Mean) -> Float[Array, " layers"]:
    r"""The layers' weights after a step: in inverse proportion to their unit costs.

    .. math:: w_i \leftarrow \frac{1 / \bar c_i}{\sum_k 1 / \bar c_k}

    Args:
        weights: The weights before; they stay if nothing was counted or a cost is not finite.
        cost: The unit costs of the whole group of micro-batches.

    Examples:
        >>> cost = Mean(jnp.array([1.0, 3.0]), jnp.float32(1))
        >>> print(cost_attention(jnp.full(2, 0.5), cost))
        [0.75 0.25]

    References:
        Li et al., BERT-EMD, 2020, section 3.4, in the form of the authors' code, which normalises
        by the sum.
    """
    unit = jnp.asarray(cost.total, weights.dtype)  # a common scale cancels
    unit = jnp.maximum(unit, SMALLEST_COST * jnp.max(unit))
    inverse = 1 / jnp.where(unit > 0, unit, 1)
    new = inverse / jnp.sum(inverse)
    usable = (jnp.max(unit) > 0) & jnp.all(jnp.isfinite(new)) & (cost.count > 0)
    return jnp.where(usable, new, weights)


def equal_weights(student: int, teacher: int) -> dict[str, Array]:
    """The weights before the first step: equal for all layers of a model.

    Examples:
        >>> print(equal_weights(2, 4)["teacher"])
        [0.25 0.25 0.25 0.25]
    """
    return {
        who: jnp.full(count, 1 / count, jnp.float32)
        for who, count in zip(LAYER_WEIGHTS, (student, teacher), strict=True)
    }


def shared_weights(
    weights: Mapping[str, dict[str, Array]], groups: Mapping[str, str | None]
) -> dict[str, dict[str, Array]]:
    """The weights, with the mean of the group for each member of a group."""
    shared = dict(weights)
    for name, group in groups.items():
        if group is not None:
            members = [weights[other] for other, own in groups.items() if own == group]
            shared[name] = jax.tree.map(lambda *each: sum(each) / len(each), *members)
    return shared


def _stacked(who: str, states: Sequence[Any]) -> Array:
    shapes = {state.shape for state in states}
    if len(shapes) > 1:
        raise UsageError(
            f"The {who}'s layers have different shapes, {sorted(shapes)}: optimal transport needs "
            "layers of one shape."
        )
    return jnp.stack(states)
