"""MiniLM's losses between self-attention modules: attention, and relations of vectors."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ._attention import EXCLUDED, Scores, check_scores, rowwise
from ._divergences import kl_of_distributions
from ._reduction import Mean, as_loss, masked_mean, selected, valid
from ._shapes import require_mask

Mask = Shaped[Array, "batch length"]


@as_loss
def minilm_attention_loss(
    attention_S: Scores, attention_T: Scores, mask: Mask | None = None
) -> Mean:
    r"""KL divergence between the attention distributions, head by head.

    .. math:: \frac{1}{H N} \sum_{h, i} KL\left(A^T_{hi} \,\|\, A^S_{hi}\right), \;
        A_{hi} = \sigma_j(\text{scores}_{hij})

    over the :math:`N` valid positions of the batch. Padded keys are excluded before the softmax,
    so the length of the padding changes nothing (``attention_ce`` drops them after it, as
    TextBrewer does).

    Args:
        attention_S: Student's scores before the softmax, ``(batch, [heads,] length, length)``.
        attention_T: Teacher's scores, of the same shape.
        mask: ``(batch, length)``; every value but 0 selects a position.

    Returns:
        A scalar, in float32 (float64 if an input is). ``minilm_attention_loss.sum_and_count``
        returns the sum over heads and positions, and their number.

    Raises:
        UsageError: The shapes of scores and mask do not fit.

    Examples:
        >>> scores = jnp.zeros((1, 2, 3, 3))
        >>> print(f"{minilm_attention_loss(scores, scores.at[..., 0].set(9.0)):.4f}")
        1.0961

    References:
        Wang et al., MiniLM, 2020, section 3.1, https://arxiv.org/abs/2002.10957
    """
    scores_S, scores_T = check_scores("minilm_attention_loss", attention_S, attention_T, mask)
    return _divergence(rowwise(scores_S, mask), rowwise(scores_T, mask), mask)


@as_loss
def minilm_relation_loss(
    state_S: Float[Array, "batch length _"],
    state_T: Float[Array, "batch length _"],
    mask: Mask | None = None,
    *,
    heads: int = 12,
) -> Mean:
    r"""KL divergence between the relations that positions have with each other.

    .. math:: \frac{1}{A_r N} \sum_{a, i} KL\left(R^T_{ai} \,\|\, R^S_{ai}\right), \;
        R_{ai} = \sigma_j\left(\frac{x_{ai} \cdot x_{aj}}{\sqrt{d_r}}\right)

    over the :math:`N` valid positions of the batch. :math:`x` are the queries, keys or values of a
    layer, all attention heads side by side, split anew into :math:`A_r` relation heads of width
    :math:`d_r`. Student and teacher may have different widths and numbers of attention heads.

    In a config these vectors are a feature of the adaptor (``register_new("feature", "value")``).
    MiniLMv2 matches queries, keys and values, in three matches; with ``heads`` the number of
    attention heads, the match of values is the value relation of MiniLM.

    Args:
        state_S: Student's vectors, ``(batch, length, width)``.
        state_T: Teacher's vectors, ``(batch, length, width)``; the width may be another.
        mask: ``(batch, length)``; every value but 0 selects a position.
        heads: :math:`A_r`, which must divide both widths.

    Returns:
        A scalar, in float32 (float64 if an input is). ``minilm_relation_loss.sum_and_count``
        returns the sum over relation heads and positions, and their number.

    Raises:
        UsageError: ``heads`` does not divide a width, or the shapes do not fit.

    Examples:
        >>> x = jnp.ones((1, 3, 4))
        >>> print(f"{minilm_relation_loss(x, jnp.eye(3, 6)[None], heads=2):.4f}")
        0.0203

    References:
        Wang et al., MiniLMv2, 2021, section 3.1, https://arxiv.org/abs/2012.15828; MiniLM, 2020,
        section 3.2, https://arxiv.org/abs/2002.10957
    """
    for who, x in (("student", state_S), ("teacher", state_T)):
        if x.ndim != 3 or x.shape[:2] != state_S.shape[:2]:
            raise UsageError(
                "minilm_relation_loss: states (batch, length, width) of the same positions are "
                f"needed, got {state_S.shape} and {state_T.shape}."
            )
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
            raise UsageError(f"minilm_relation_loss: heads must be an int >= 1, got {heads!r}.")
        if x.shape[2] % heads:
            raise UsageError(
                f"minilm_relation_loss: heads={heads} does not divide the {who}'s width "
                f"{x.shape[2]}."
            )
    require_mask("minilm_relation_loss", mask, state_S.shape[:2])
    relation_S, relation_T = (_relations(valid(x, mask), heads) for x in (state_S, state_T))
    return _divergence(relation_S, relation_T, mask)


def _relations(x: Array, heads: int) -> Array:
    """Scores before the softmax, ``(batch, heads, length, length)``."""
    batch, length, width = x.shape
    x = x.reshape(batch, length, heads, width // heads)
    scores = jnp.einsum("bihd,bjhd->bhij", x, x, precision=Precision.HIGHEST)
    return scores / jnp.sqrt(width // heads)


def _divergence(scores_S: Array, scores_T: Array, mask: Array | None) -> Mean:
    if mask is not None:
        key = selected(mask)[:, None, None, :]
        scores_S, scores_T = (jnp.where(key, x, EXCLUDED) for x in (scores_S, scores_T))
    log_q, log_p = jax.nn.log_softmax(scores_S), jax.nn.log_softmax(scores_T)
    values = kl_of_distributions(log_p, log_q)
    return masked_mean(values, None if mask is None else selected(mask)[:, None, :])
