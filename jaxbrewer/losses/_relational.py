"""Losses between Gram matrices of two layers: of features (fsp) or of positions (mmd)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ._reduction import Mean, as_loss, masked_mean, selected, valid
from ._shapes import require_mask, require_same_shape

LayerPair = Sequence[Float[Array, "batch length _"]]


@as_loss
def fsp_loss(
    state_S: LayerPair, state_T: LayerPair, mask: Shaped[Array, "batch length"] | None = None
) -> Mean:
    r"""Mean squared difference of the flow between two layers.

    .. math:: \frac{1}{B D_0 D_1} \sum_b \lVert G^S_b - G^T_b \rVert_F^2, \;
        G_b = \frac{1}{n_b} \sum_i m_{bi}^2 \, x^{(0)}_{bi} x^{(1) \top}_{bi}, \;
        n_b = \sum_i m_{bi}

    Examples without any valid position do not count.

    Args:
        state_S: Student's two layers :math:`x^{(0)}, x^{(1)}`, each ``(batch, length, width)``
            (the two widths may differ).
        state_T: Teacher's two layers, of the same widths; without a mask their length may be
            another, as the matrices are ``(width, width)``.
        mask: ``(batch, length)``.

    Returns:
        A scalar, in float32 (float64 if an input is); ``fsp_loss.sum_and_count`` returns the sum
        over the entries of the matrices, and their number.

    Raises:
        UsageError: Not two layers, or the shapes of states and mask do not fit.

    Examples:
        >>> x = jnp.ones((1, 2, 3))
        >>> print(fsp_loss([x, x], [x, 3 * x]))
        4.0

    References:
        Yim et al., A gift from knowledge distillation, CVPR 2017, equation 1; over positions
        instead of pixels, as in TextBrewer
    """
    _check("fsp_loss", state_S, state_T, mask, same_length=mask is not None)
    for x_S, x_T in zip(state_S, state_T, strict=True):
        require_same_shape("fsp_loss", x_S[:, 0], x_T[:, 0], "batch", "width")

    def flow(state: LayerPair) -> Array:
        x_0, x_1 = (valid(x, mask) for x in state)
        if mask is None:
            return _gram("bli,blj->bij", x_0, x_1) / x_0.shape[1]
        weights = mask.astype(x_0.dtype)
        length = jnp.sum(weights, axis=1)[:, None, None]
        weighted = x_0 * weights[:, :, None] ** 2
        return _gram("bli,blj->bij", weighted, x_1) / jnp.where(length > 0, length, 1)

    nonempty = None if mask is None else jnp.any(selected(mask), axis=1)
    return masked_mean((flow(state_S) - flow(state_T)) ** 2, nonempty)


@as_loss
def mmd_loss(
    state_S: LayerPair, state_T: LayerPair, mask: Shaped[Array, "batch length"] | None = None
) -> Mean:
    r"""Mean squared difference of the similarities between positions of two layers.

    .. math:: \frac{\sum_{bij} m_{bi} m_{bj} (K^S_{bij} - K^T_{bij})^2}{\sum_{bij} m_{bi} m_{bj}},
        \; K_{bij} = \frac{1}{D} x^{(0)}_{bi} \cdot x^{(1)}_{bj}

    Student and teacher may have different widths :math:`D`. With and without a mask the
    similarities are divided by the width (TextBrewer 0.2.1 divides by the length if there is a
    mask).

    Args:
        state_S: Student's two layers :math:`x^{(0)}, x^{(1)}`, each ``(batch, length, width)``.
        state_T: Teacher's two layers, of the same batch and length.
        mask: ``(batch, length)``; fractions are weights of the positions.

    Returns:
        A scalar, in float32 (float64 if an input is); ``mmd_loss.sum_and_count`` returns the two
        sums of the equation.

    Raises:
        UsageError: Not two layers, or the shapes of states and mask do not fit.

    Examples:
        >>> x = jnp.ones((1, 2, 3))
        >>> print(mmd_loss([x, x], [x, 3 * x]))
        4.0

    References:
        Huang and Wang, Like what you like: neuron selectivity transfer, 2017, section 4 (the
        squared maximum mean discrepancy with a linear kernel), https://arxiv.org/abs/1707.01219
    """
    _check("mmd_loss", state_S, state_T, mask)

    def similarity(state: LayerPair) -> Array:
        x_0, x_1 = (valid(x, mask) for x in state)
        if x_0.shape != x_1.shape:
            raise UsageError(f"mmd_loss: two layers of one width, got {x_0.shape}, {x_1.shape}.")
        return _gram("bid,bjd->bij", x_0, x_1) / x_0.shape[2]

    squares = (similarity(state_S) - similarity(state_T)) ** 2
    if mask is None:
        return masked_mean(squares)
    weights = mask.astype(squares.dtype)
    return masked_mean(squares, weights[:, :, None] * weights[:, None, :])


def _gram(equation: str, x_0: Array, x_1: Array) -> Array:
    return jnp.einsum(equation, x_0, x_1, precision=Precision.HIGHEST)


def _check(loss: str, state_S: Any, state_T: Any, mask: Any, *, same_length: bool = True) -> None:
    if len(state_S) != 2 or len(state_T) != 2:
        given = f"got {len(state_S)} and {len(state_T)}"
        raise UsageError(f"{loss} compares two layers of student and teacher, {given}.")
    for state in (state_S, state_T):
        first = (state_S if same_length else state)[0].shape[:2]
        for x in state:
            if x.ndim != 3 or x.shape[:2] != first:
                shapes = ", ".join(str(state.shape) for state in (*state_S, *state_T))
                expected = "four arrays (batch, length, width) expected"
                raise UsageError(f"{loss}: {expected}, got {shapes}.")
    require_mask(loss, mask, state_S[0].shape[:2])
