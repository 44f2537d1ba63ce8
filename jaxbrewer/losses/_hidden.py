"""Losses between hidden states, position by position."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ._reduction import Mean, as_loss, masked_mean, selected, valid
from ._shapes import require_mask, require_same_shape

States = Float[Array, "batch *length width"]
Mask = Shaped[Array, "batch *length"]
COSINE_EPSILON = 1e-12  # added to each squared norm, as PyTorch's cosine loss does


@as_loss
def hid_mse_loss(state_S: States, state_T: States, mask: Mask | None = None) -> Mean:
    r"""Mean squared difference of hidden states.

    .. math:: \frac{\sum_{bi} m_{bi} \lVert s_{bi} - t_{bi} \rVert^2}{D \sum_{bi} m_{bi}}

    Args:
        state_S: Student's states, ``(batch, length, width)`` or ``(batch, width)``, after the
            projection if there is one.
        state_T: Teacher's states, of the same shape.
        mask: ``(batch, length)``, or ``(batch,)`` for states without positions; fractions are
            weights.

    Returns:
        A scalar, in float32 (float64 if an input is); ``hid_mse_loss.sum_and_count`` returns
        numerator and denominator of the equation.

    Raises:
        UsageError: The shapes of states and mask do not fit.

    Examples:
        >>> print(hid_mse_loss(jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3)), jnp.array([[1, 0]])))
        1.0

    References:
        Romero et al., FitNets, 2014, equation 3, https://arxiv.org/abs/1412.6550;
        Jiao et al., TinyBERT, 2019, equation 8, https://arxiv.org/abs/1909.10351
    """
    require_same_shape("hid_mse_loss", state_S, state_T, "batch", "length", "width")
    require_mask("hid_mse_loss", mask, state_S.shape[:-1])
    return masked_mean((valid(state_S, mask) - valid(state_T, mask)) ** 2, mask)


@as_loss
def cos_loss(state_S: States, state_T: States, mask: Mask | None = None) -> Mean:
    r"""One minus the cosine between hidden states.

    .. math:: \frac{1}{N} \sum_n 1 - \frac{s_n \cdot t_n}
        {\sqrt{\lVert s_n \rVert^2 + \epsilon} \sqrt{\lVert t_n \rVert^2 + \epsilon}}

    A zero vector has cosine 0 and gets no gradient.

    Args:
        state_S: Student's states, ``(batch, length, width)`` or ``(batch, width)``.
        state_T: Teacher's states, of the same shape.
        mask: ``(batch, length)``, or ``(batch,)`` for states without positions; every value but
            0 selects a position.

    Returns:
        A scalar, in float32 (float64 if an input is); ``cos_loss.sum_and_count`` returns the sum
        over positions and their number :math:`N`.

    Raises:
        UsageError: The shapes of states and mask do not fit.

    Examples:
        >>> print(cos_loss(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])))
        1.0

    References:
        Sanh et al., DistilBERT, 2019, https://arxiv.org/abs/1910.01108
    """
    require_same_shape("cos_loss", state_S, state_T, "batch", "length", "width")
    require_mask("cos_loss", mask, state_S.shape[:-1])
    state_S, state_T = valid(state_S, mask), valid(state_T, mask)
    square_S, square_T = (jnp.sum(x**2, axis=-1, keepdims=True) for x in (state_S, state_T))
    unit_S, unit_T = (  # the inner `where` keeps the gradient at a zero vector at 0, not 1e6
        jnp.where(square > 0, x, 0) / jnp.sqrt(square + COSINE_EPSILON)
        for x, square in ((state_S, square_S), (state_T, square_T))
    )
    cosine = jnp.sum(unit_S * unit_T, axis=-1)
    return masked_mean(1 - cosine, selected(mask))


@as_loss
def pkd_loss(state_S: States, state_T: States, mask: Mask | None = None) -> Mean:
    r"""Squared distance of the normalised hidden states of the first position.

    .. math:: \frac{1}{B} \sum_b \left\lVert
        \frac{s_{b0}}{\lVert s_{b0} \rVert} - \frac{t_{b0}}{\lVert t_{b0} \rVert} \right\rVert^2

    A zero vector stays zero and gets no gradient.

    Args:
        state_S: Student's states, ``(batch, length, width)`` or ``(batch, width)``.
        state_T: Teacher's states, likewise, of the same width.
        mask: ``(batch, length)`` or ``(batch,)``. Of no effect, except that an example does not
            count if its first position is padding (for ``(batch, width)``: all positions).

    Returns:
        A scalar, in float32 (float64 if an input is); ``pkd_loss.sum_and_count`` returns the sum
        over examples and their number.

    Raises:
        UsageError: The shapes of states and mask do not fit.

    Examples:
        >>> print(pkd_loss(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 2.0]])))
        2.0

    References:
        Sun et al., Patient knowledge distillation, 2019, section 3.2,
        https://arxiv.org/abs/1908.09355
    """
    state_S, state_T, mask = first_positions("pkd_loss", state_S, state_T, mask)
    require_same_shape("pkd_loss", state_S, state_T, "batch", "width")
    gap = unit(valid(state_S, mask)) - unit(valid(state_T, mask))
    return masked_mean(jnp.sum(gap**2, axis=-1), mask)


def first_positions(
    loss: str, state_S: Array, state_T: Array, mask: Array | None
) -> tuple[Array, Array, Array | None]:
    """One vector per example, ``(batch, width)``, and which examples count.

    Of states with positions the first is taken, and an example counts unless that is padding; of
    states without, an example counts if its mask holds anywhere.

    Raises:
        UsageError: The mask has other positions than the states.
    """
    if mask is not None:
        batch, lengths = state_S.shape[0], [x.shape[1] for x in (state_S, state_T) if x.ndim == 3]
        fits = mask.ndim in (1, 2) and mask.shape[0] == batch
        if not fits or (mask.ndim == 2 and lengths and mask.shape[1] not in lengths):
            length = lengths[0] if lengths else "length"
            raise UsageError(f"{loss}: the mask must be ({batch}, {length}), got {mask.shape}.")
        first_only = bool(lengths) and mask.ndim == 2
        mask = selected(mask)[:, 0] if first_only else jnp.any(selected(mask.reshape(batch, -1)), 1)
    first_S, first_T = (x[:, 0] if x.ndim == 3 else x for x in (state_S, state_T))
    return first_S, first_T, mask


def unit(x: Array) -> Array:
    """Vectors along the last axis, of length 1; a zero vector stays zero and gets no gradient."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return jnp.where(square > 0, x / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
