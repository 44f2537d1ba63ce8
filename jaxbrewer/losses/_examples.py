"""Losses that relate the examples of a batch with each other.

They compare one vector per example: states ``(batch, width)``, or the first position of states
``(batch, length, width)``. Since pairs of examples are what they see, a batch that is split into
micro-batches is compared within each part only, which is another (smaller) loss than that of the
whole batch; parts are averaged by their numbers of examples. Devices that share one batch see all
of it.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ._hidden import first_positions, unit
from ._reduction import Mean, as_loss, loss_dtype, masked_mean, valid
from ._shapes import require_same_shape

States = Float[Array, "batch *length _"]
Mask = Shaped[Array, "batch *length"]


@as_loss
def rkd_loss(
    state_S: States,
    state_T: States,
    mask: Mask | None = None,
    *,
    distance: float = 1.0,
    angle: float = 2.0,
) -> Mean:
    r"""Relational distillation: distances between examples, and angles between three of them.

    .. math:: \lambda_D \, \mathrm{mean}_{i \ne j} \,
        l\left(\tfrac{1}{\mu_T} \lVert t_i - t_j \rVert,
        \tfrac{1}{\mu_S} \lVert s_i - s_j \rVert\right)
        + \lambda_A \, \mathrm{mean}_{i \ne j \ne k} \,
        l(\cos \angle t_i t_j t_k, \cos \angle s_i s_j s_k)

    :math:`l` is Huber's loss with :math:`\delta = 1`, :math:`\mu` the mean distance between two
    different examples, :math:`i, j, k` are all different. The paper sums; means keep the loss in
    scale. Student and teacher may have different widths. Equal examples have distance 0 and no
    direction, and get no gradient from that. The angles take memory of the order
    :math:`B^2 D + B^3`.

    A split of the batch changes this loss: relations are within each part.

    Args:
        state_S: Student's states, ``(batch, width)``, or ``(batch, length, width)`` of which the
            first position is taken.
        state_T: Teacher's states, likewise; the width may be another.
        mask: ``(batch, length)`` or ``(batch,)``; an example whose first position is padding (for
            ``(batch, width)``: all positions) does not count.
        distance: :math:`\lambda_D`.
        angle: :math:`\lambda_A`; 0 does not compute the angles.

    Returns:
        A scalar, in float32 (float64 if an input is). ``rkd_loss.sum_and_count`` returns the loss
        times the number of examples, and that number; both are 0 for fewer than two examples.

    Raises:
        UsageError: Student and teacher have different numbers of examples.

    Examples:
        >>> points = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print(f"{rkd_loss(points, 3 * points + 1):.4f}")  # moved and scaled: equal relations
        0.0000
        >>> line = jnp.array([[0.0], [1.0], [2.0]])
        >>> print(f"{rkd_loss(points, line):.4f}")
        1.2742

    References:
        Park et al., Relational knowledge distillation, CVPR 2019, sections 3.2.1 and 3.2.2,
        https://arxiv.org/abs/1904.05068
    """
    first_S, first_T, mask = first_positions("rkd_loss", state_S, state_T, mask)
    if first_S.shape[0] != first_T.shape[0]:
        require_same_shape("rkd_loss", first_S, first_T, "batch", "width")
    pairs, number = _pairs(first_S, mask)
    pairs &= ~jnp.eye(len(first_S), dtype=bool)
    gaps_S, gaps_T = (_differences(valid(x, mask)) for x in (first_S, first_T))
    ratio_S, ratio_T = (_over_mean(_length(gaps), pairs) for gaps in (gaps_S, gaps_T))
    value = distance * masked_mean(_huber(ratio_S - ratio_T), pairs).value()
    if angle:
        cosine_S, cosine_T = (_cosines(unit(gaps)) for gaps in (gaps_S, gaps_T))
        triplets = pairs[:, :, None] & pairs[None, :, :] & pairs[:, None, :]
        value += angle * masked_mean(_huber(cosine_S - cosine_T), triplets).value()
    return _if_pairs(value * number, number)


@as_loss
def crd_loss(
    state_S: States,
    state_T: States,
    mask: Mask | None = None,
    *,
    temperature: float = 0.07,
    dataset_size: int | None = None,
) -> Mean:
    r"""Contrastive distillation: the student recognizes the teacher's state of its own example.

    .. math:: -\frac{1}{B} \sum_i \Big[\log h(t_i, s_i) + \sum_{j \ne i} \log(1 - h(t_j, s_i))\Big],
        \; h(t, s) = \frac{e^{t \cdot s / \tau}}{e^{t \cdot s / \tau} + N / M}

    with :math:`t, s` divided by their lengths and :math:`N = B - 1` negatives, the other examples
    of the batch. The paper draws its negatives from a memory bank with one old embedding for each
    example of the data set. That is state which has to be sharded, checkpointed and addressed by
    example, and which is stale; a batch of a few hundred gives negatives that are exact, in a loss
    that stays a function of its arguments.

    The paper's embeddings are linear maps of both models' states. Here the student's is the
    match's ``proj``, which is trained with it and whose width is the teacher's; the teacher's own
    state is its embedding.

    A split of the batch changes this loss: negatives come from each part. The loss is not 0, and
    not least, where student and teacher are equal.

    Args:
        state_S: Student's states, ``(batch, width)``, or ``(batch, length, width)`` of which the
            first position is taken; after the projection if there is one.
        state_T: Teacher's states, likewise, of the same width.
        mask: ``(batch, length)`` or ``(batch,)``; an example whose first position is padding (for
            ``(batch, width)``: all positions) does not count.
        temperature: :math:`\tau > 0`, the authors' by default.
        dataset_size: :math:`M`, the number of examples the negatives are drawn from; ``None``
            takes the batch, :math:`M = B`.

    Returns:
        A scalar, in float32 (float64 if an input is). ``crd_loss.sum_and_count`` returns the sum
        over examples and their number; both are 0 for fewer than two examples.

    Raises:
        UsageError: The shapes do not fit, or a parameter is out of its range.

    Examples:
        >>> own = jnp.eye(2)
        >>> print(crd_loss(own, own) < crd_loss(own, own[::-1]))
        True

    References:
        Tian et al., Contrastive representation distillation, ICLR 2020, section 3.1,
        https://arxiv.org/abs/1910.10699
    """
    if not _is_number(temperature) or temperature <= 0:
        raise UsageError(f"crd_loss: temperature must be a positive number, got {temperature!r}.")
    if dataset_size is not None and (not _is_number(dataset_size) or dataset_size < 2):
        raise UsageError(f"crd_loss: dataset_size must be None or >= 2, got {dataset_size!r}.")
    first_S, first_T, mask = first_positions("crd_loss", state_S, state_T, mask)
    require_same_shape("crd_loss", first_S, first_T, "batch", "width")
    pairs, number = _pairs(first_S, mask)
    s, t = (unit(valid(x, mask)) for x in (first_S, first_T))
    scores = jnp.einsum("id,jd->ij", s, t, precision=Precision.HIGHEST) / temperature
    drawn_from = jnp.maximum(number, 2) if dataset_size is None else dataset_size
    log_ratio = jnp.log(jnp.maximum(number - 1, 1) / drawn_from)
    # -log h = softplus(log(N/M) - score), -log(1 - h) = softplus(score - log(N/M))
    sign = jnp.where(jnp.eye(len(s), dtype=bool), 1, -1)
    values = jax.nn.softplus(sign * (log_ratio - scores))
    return _if_pairs(masked_mean(values, pairs).total, number)


def _pairs(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """Which pairs of examples count, ``(batch, batch)``, and the number of examples that do."""
    present = jnp.ones(len(x), bool) if mask is None else mask
    number = jnp.sum(present, dtype=loss_dtype(x))
    return present[:, None] & present[None, :], number


def _if_pairs(total: Array, number: Array) -> Mean:
    """The sum and count of a batch; both are 0 if it has no pair of examples."""
    has_pairs = number >= 2
    return Mean(jnp.where(has_pairs, total, 0), jnp.where(has_pairs, number, 0))


def _differences(x: Array) -> Array:
    """``x_i - x_j``, ``(batch, batch, width)``."""
    return x[:, None] - x[None, :]


def _length(gaps: Array) -> Array:
    square = jnp.sum(gaps**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _over_mean(lengths: Array, pairs: Array) -> Array:
    mean = masked_mean(lengths, pairs).value()
    return lengths / jnp.where(mean > 0, mean, 1)


def _cosines(directions: Array) -> Array:
    """Of the angles at j between i and k, ``[i, j, k]``."""
    return jnp.einsum("ijd,kjd->ijk", directions, directions, precision=Precision.HIGHEST)


def _huber(gap: Array) -> Array:
    return jnp.where(jnp.abs(gap) <= 1, gap**2 / 2, jnp.abs(gap) - 0.5)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
