"""Losses between attention scores, the numbers before the softmax.

All take ``(batch, heads, length, length)`` or, for a single head, ``(batch, length, length)``;
the last axis holds the keys. Without a mask, scores of -0.001 and less are read as padding, as
TextBrewer does: give the mask where there is one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ._logits import cross_entropy_of_distributions
from ._reduction import Mean, as_loss, masked_mean, selected, valid
from ._shapes import require_mask, require_same_shape

Scores = Float[Array, "batch *heads queries keys"]
LARGEST_PADDING_SCORE = -1e-3
EXCLUDED = -1e30  # a score that no softmax notices, and finite


@as_loss
def att_mse_loss(
    attention_S: Scores, attention_T: Scores, mask: Shaped[Array, "batch length"] | None = None
) -> Mean:
    r"""Mean squared difference of the attention scores, head by head.

    .. math:: \frac{\sum_{bhij} m_{bi} m_{bj} (A^S_{bhij} - A^T_{bhij})^2}
        {\sum_{bhij} m_{bi} m_{bj}}

    Without a mask, scores :math:`\le -0.001` are set to 0 first, on each side by its own.

    Args:
        attention_S: Student's scores, ``(batch, [heads,] length, length)``.
        attention_T: Teacher's scores, of the same shape.
        mask: ``(batch, length)``; fractions are weights of queries and keys.

    Returns:
        A scalar, in float32 (float64 if an input is); ``att_mse_loss.sum_and_count`` returns the
        two sums of the equation.

    Raises:
        UsageError: The shapes of scores and mask do not fit.

    Examples:
        >>> print(att_mse_loss(jnp.ones((1, 2, 3, 3)), jnp.zeros((1, 2, 3, 3))))
        1.0

    References:
        Jiao et al., TinyBERT, 2019, equation 7, https://arxiv.org/abs/1909.10351
    """
    scores_S, scores_T = check_scores("att_mse_loss", attention_S, attention_T, mask)
    return _squared_difference(_pairwise(scores_S, mask), _pairwise(scores_T, mask), mask)


@as_loss
def att_mse_sum_loss(
    attention_S: Scores, attention_T: Scores, mask: Shaped[Array, "batch length"] | None = None
) -> Mean:
    r"""Mean squared difference of the attention scores summed over the heads.

    .. math:: \frac{\sum_{bij} m_{bi} m_{bj} \left(\sum_h A^S_{bhij} - \sum_h A^T_{bhij}\right)^2}
        {\sum_{bij} m_{bi} m_{bj}}

    Student and teacher may have different numbers of heads. Without a mask, sums
    :math:`\le -0.001` are set to 0 first, on each side by its own.

    Args:
        attention_S: Student's scores, ``(batch, [heads,] length, length)``.
        attention_T: Teacher's scores, of the same shape but for the heads.
        mask: ``(batch, length)``; fractions are weights of queries and keys.

    Returns:
        A scalar, in float32 (float64 if an input is); ``att_mse_sum_loss.sum_and_count`` returns
        the two sums of the equation.

    Raises:
        UsageError: The shapes of scores and mask do not fit.

    Examples:
        >>> print(att_mse_sum_loss(jnp.ones((1, 2, 3, 3)), jnp.zeros((1, 4, 3, 3))))
        4.0

    References:
        Zagoruyko and Komodakis, Paying more attention to attention, 2016 (sums over channels),
        https://arxiv.org/abs/1612.03928
    """
    scores = check_scores("att_mse_sum_loss", attention_S, attention_T, mask, same_heads=False)
    sum_S, sum_T = (jnp.sum(_pairwise(score, mask), axis=1, keepdims=True) for score in scores)
    return _squared_difference(sum_S, sum_T, mask)


@as_loss
def att_ce_loss(
    attention_S: Scores, attention_T: Scores, mask: Shaped[Array, "batch length"] | None = None
) -> Mean:
    r"""Cross entropy of the student's attention under the teacher's, head by head.

    .. math:: -\frac{\sum_{bhi} m_{bi} \sum_j m_{bj} P_{bhij} \log Q_{bhij}}{\sum_{bhi} m_{bi}},
        \; P = \sigma(A^T), \; Q = \sigma(A^S)

    As in TextBrewer both softmaxes run over all keys and padded keys are dropped after it, so the
    scores of padded keys should be very negative, as models make them (a score of NaN or infinity
    there counts as that). Without a mask, the terms with :math:`A^T_{bhij} \le -0.001` are
    dropped.

    Args:
        attention_S: Student's scores, ``(batch, [heads,] length, length)``.
        attention_T: Teacher's scores, of the same shape.
        mask: ``(batch, length)``; fractions are weights of queries and keys.

    Returns:
        A scalar, in float32 (float64 if an input is); ``att_ce_loss.sum_and_count`` returns the
        two sums of the equation.

    Raises:
        UsageError: The shapes of scores and mask do not fit.

    Examples:
        >>> print(att_ce_loss(jnp.zeros((1, 2, 4, 4)), jnp.zeros((1, 2, 4, 4))))
        1.3862944

    References:
        Jiao et al., TinyBERT, 2019, section 3.1 (there with the squared difference),
        https://arxiv.org/abs/1909.10351
    """
    scores_S, scores_T = check_scores("att_ce_loss", attention_S, attention_T, mask)
    return _cross_entropy(rowwise(scores_S, mask), rowwise(scores_T, mask), mask)


@as_loss
def att_ce_mean_loss(
    attention_S: Scores, attention_T: Scores, mask: Shaped[Array, "batch length"] | None = None
) -> Mean:
    r"""Cross entropy as in :func:`att_ce_loss`, of scores averaged over the heads.

    .. math:: -\frac{\sum_{bi} m_{bi} \sum_j m_{bj} P_{bij} \log Q_{bij}}{\sum_{bi} m_{bi}},
        \; P = \sigma\left(\tfrac{1}{H_T} \sum_h A^T_h\right),
        \; Q = \sigma\left(\tfrac{1}{H_S} \sum_h A^S_h\right)

    Student and teacher may have different numbers of heads. What is said of padded keys and of
    the call without a mask in :func:`att_ce_loss` holds here for the averaged scores.

    Args:
        attention_S: Student's scores, ``(batch, [heads,] length, length)``.
        attention_T: Teacher's scores, of the same shape but for the heads.
        mask: ``(batch, length)``; fractions are weights of queries and keys.

    Returns:
        A scalar, in float32 (float64 if an input is); ``att_ce_mean_loss.sum_and_count`` returns
        the two sums of the equation.

    Raises:
        UsageError: The shapes of scores and mask do not fit.

    Examples:
        >>> print(att_ce_mean_loss(jnp.zeros((1, 2, 4, 4)), jnp.zeros((1, 1, 4, 4))))
        1.3862944

    References:
        As for :func:`att_ce_loss`; the mean over the heads is TextBrewer's.
    """
    scores = check_scores("att_ce_mean_loss", attention_S, attention_T, mask, same_heads=False)
    mean_S, mean_T = (jnp.mean(rowwise(score, mask), axis=1, keepdims=True) for score in scores)
    return _cross_entropy(mean_S, mean_T, mask)


def check_scores(
    loss: str, attention_S: Any, attention_T: Any, mask: Any, *, same_heads: bool = True
) -> tuple[Array, Array]:
    """Both as ``(batch, heads, queries, keys)``, once it is clear that they can be compared."""
    scores_S, scores_T = (
        attention if attention.ndim == 4 else attention[:, None]
        for attention in (attention_S, attention_T)
    )
    if same_heads:
        require_same_shape(loss, scores_S, scores_T, "batch", "heads", "queries", "keys")
    else:
        require_same_shape(loss, scores_S[:, 0], scores_T[:, 0], "batch", "queries", "keys")
    if mask is not None:
        for length in scores_S.shape[2:]:
            require_mask(loss, mask, (scores_S.shape[0], length))
    return scores_S, scores_T


def _weights(mask: Array, dtype: Any) -> Array:
    """Weights of the pairs of positions, ``(batch, 1, length, length)``."""
    weights = mask.astype(dtype)
    return weights[:, None, :, None] * weights[:, None, None, :]


def _pairwise(scores: Array, mask: Array | None) -> Array:
    """The scores, with zeros where query or key is padding."""
    return valid(scores, None if mask is None else _weights(mask, jnp.float32))


def _squared_difference(scores_S: Array, scores_T: Array, mask: Array | None) -> Mean:
    if mask is None:
        scores_S, scores_T = (
            jnp.where(scores <= LARGEST_PADDING_SCORE, 0, scores) for scores in (scores_S, scores_T)
        )
        return masked_mean((scores_S - scores_T) ** 2)
    squares = (scores_S - scores_T) ** 2
    return masked_mean(squares, _weights(mask, squares.dtype))


def rowwise(scores: Array, mask: Array | None) -> Array:
    """The scores, with zeros in the rows of padded queries and no NaN in those of padded keys."""
    if mask is None:
        return valid(scores, None)
    scores = valid(scores, mask[:, None, :])
    return jnp.where(selected(mask)[:, None, None, :] | jnp.isfinite(scores), scores, EXCLUDED)


def _cross_entropy(scores_S: Array, scores_T: Array, mask: Array | None) -> Mean:
    log_q, p = jax.nn.log_softmax(scores_S), jax.nn.softmax(scores_T)
    if mask is None:
        p = jnp.where(scores_T <= LARGEST_PADDING_SCORE, 0, p)
        return masked_mean(cross_entropy_of_distributions(p, log_q))
    p = p * mask[:, None, None, :].astype(p.dtype)
    return masked_mean(cross_entropy_of_distributions(p, log_q), mask[:, None, :])
