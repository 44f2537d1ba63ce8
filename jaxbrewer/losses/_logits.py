"""Losses between the logits of student and teacher."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ._reduction import Mean, as_loss, loss_dtype, masked_mean, valid
from ._shapes import require_mask, require_same_shape

Temperature = float | Shaped[Array, "*#batch"]


@as_loss
def kd_ce_loss(
    logits_S: Float[Array, "*batch classes"],
    logits_T: Float[Array, "*batch classes"],
    temperature: Temperature = 1,
    mask: Shaped[Array, "*batch"] | None = None,
) -> Mean:
    r"""Cross entropy of the student under the teacher's softened class distribution.

    .. math:: -\frac{1}{N} \sum_n \sum_c p_{nc} \log q_{nc}, \;
        p = \sigma(z_T / \tau), \; q = \sigma(z_S / \tau)

    As in TextBrewer there is no factor :math:`\tau^2`, and the least value is the entropy of the
    teacher, not 0.

    Args:
        logits_S: Student's :math:`z_S`, ``(batch, classes)`` or ``(batch, length, classes)``.
        logits_T: Teacher's :math:`z_T`, of the same shape. A class that both rule out with
            ``-inf`` contributes 0; one that only the student rules out makes the loss infinite.
        temperature: :math:`\tau > 0`: a scalar, or one per example ``(batch,)``, or one per
            position ``(batch, length)``.
        mask: ``(batch,)`` or ``(batch, length)``, the shape of the logits without the classes;
            positions where it is 0 do not count, whatever they hold.

    Returns:
        A scalar, in float32 (float64 if an input is). ``kd_ce_loss.sum_and_count`` returns the
        sum over positions and their number.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> print(kd_ce_loss(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]), temperature=2.0))
        0.6931472

    References:
        Hinton et al., Distilling the knowledge in a neural network, 2015, section 2,
        https://arxiv.org/abs/1503.02531
    """
    check_logits("kd_ce_loss", logits_S, logits_T, mask)
    log_q = jax.nn.log_softmax(soften("kd_ce_loss", logits_S, temperature, mask))
    p = jax.nn.softmax(soften("kd_ce_loss", logits_T, temperature, mask))
    return masked_mean(cross_entropy(p, log_q), selected(mask))


@as_loss
def kd_mse_loss(
    logits_S: Float[Array, "*batch classes"],
    logits_T: Float[Array, "*batch classes"],
    temperature: Temperature = 1,
    mask: Shaped[Array, "*batch"] | None = None,
) -> Mean:
    r"""Mean squared difference of the logits, both divided by the temperature.

    .. math:: \frac{1}{N C} \sum_{n, c} \left(\frac{z_{S,nc} - z_{T,nc}}{\tau}\right)^2

    Args:
        logits_S: Student's :math:`z_S`, ``(batch, classes)`` or ``(batch, length, classes)``.
        logits_T: Teacher's :math:`z_T`, of the same shape. A class that both rule out with
            ``-inf`` counts as equal; one that only one rules out makes the loss infinite.
        temperature: As in :func:`kd_ce_loss`.
        mask: As in :func:`kd_ce_loss`.

    Returns:
        A scalar, in float32 (float64 if an input is). ``kd_mse_loss.sum_and_count`` returns the
        sum over positions and classes, and their number.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> print(kd_mse_loss(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]), temperature=2.0))
        0.5

    References:
        Ba and Caruana, Do deep nets really need to be deep?, 2014,
        https://arxiv.org/abs/1312.6184
    """
    check_logits("kd_mse_loss", logits_S, logits_T, mask)
    ruled_out = jnp.isneginf(logits_S) & jnp.isneginf(logits_T)
    logits_S, logits_T = (jnp.where(ruled_out, 0, logits) for logits in (logits_S, logits_T))
    gap = soften("kd_mse_loss", logits_S, temperature, mask) - soften(
        "kd_mse_loss", logits_T, temperature, mask
    )
    return masked_mean(gap**2, selected(mask))


def cross_entropy(
    p: Float[Array, "*batch classes"], log_q: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """``-sum(p log q)`` over the last axis with ``0 log 0 = 0``, also in the gradients."""
    return -jnp.sum(p * jnp.where(p != 0, log_q, 0), axis=-1)


def check_logits(loss: str, logits_S: Any, logits_T: Any, mask: Any) -> None:
    """Raises :class:`UsageError` unless logits and mask fit."""
    require_same_shape(loss, logits_S, logits_T, "batch", "length", "classes")
    require_mask(loss, mask, logits_S.shape[:-1])


def selected(mask: Array | None) -> Array | None:
    """Logits are selected by masks, not weighted: every value but 0 means 1."""
    return None if mask is None else mask != 0


def soften(loss: str, logits: Array, temperature: Any, mask: Array | None) -> Array:
    """``logits / temperature``, with zeros at padding."""
    logits = valid(logits, mask)
    if jnp.ndim(temperature) == 0:
        return logits / jnp.asarray(temperature, loss_dtype(logits, temperature))
    positions = logits.shape[:-1]
    if temperature.shape not in (positions, positions[:1]):
        raise UsageError(
            f"{loss}: the temperature must be a scalar or have the shape {positions[:1]} or "
            f"{positions}, got {temperature.shape}."
        )
    return logits / per_position(temperature, logits)


def per_position(given: Any, values: Array) -> Array:
    """A temperature or weight with axes of size 1 added, so that it broadcasts with ``values``."""
    given = jnp.asarray(given, loss_dtype(values, given))
    extra = values.ndim - given.ndim if given.ndim else 0
    return jnp.reshape(given, given.shape + (1,) * extra)
