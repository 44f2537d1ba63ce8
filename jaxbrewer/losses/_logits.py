"""Losses between the logits of student and teacher."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ._reduction import Mean, as_loss, loss_dtype, masked_mean, selected, valid
from ._shapes import require_mask, require_same_shape

Logits = Float[Array, "*batch classes"]
Mask = Shaped[Array, "*batch"]
PerPosition = Float[Array, "*batch"]
Temperature = float | Shaped[Array, "*#batch"]


@as_loss
def kd_ce_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
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
    values = cross_entropy(logits_S, logits_T, temperature, where=mask)
    return masked_mean(values, selected(mask))


@as_loss
def kd_mse_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
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
    return masked_mean(_squared_gaps(logits_S, logits_T, temperature, mask), selected(mask))


def cross_entropy(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, *, where: Mask | None = None
) -> PerPosition:
    r"""Cross entropy of the student under the teacher at each position; see :func:`kd_ce_loss`.

    .. math:: -\sum_c p_c \log q_c, \; p = \sigma(z_T / \tau), \; q = \sigma(z_S / \tau)

    Args:
        logits_S: Student's :math:`z_S`, ``(*batch, classes)``.
        logits_T: Teacher's :math:`z_T`, of the same shape.
        temperature: :math:`\tau > 0`: a scalar, one per example, or one per position.
        where: Positions to read, ``(*batch)``; ``None`` reads all. What the others hold reaches
            neither value nor gradient; their values are finite and mean nothing.

    Returns:
        Nats, ``(*batch)``, in float32 (float64 if an input is); :func:`masked_mean` averages them.

    Raises:
        UsageError: The shapes of logits, temperature and ``where`` do not fit.

    Examples:
        >>> student, teacher = jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(cross_entropy(student, teacher).round(4))
        [0.6931 0.6931]
    """
    z_S, z_T = softened("cross_entropy", logits_S, logits_T, temperature, where)
    return cross_entropy_of_distributions(jax.nn.softmax(z_T), jax.nn.log_softmax(z_S))


def squared_error(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, *, where: Mask | None = None
) -> PerPosition:
    r"""Mean squared difference of the logits at each position; see :func:`kd_mse_loss`.

    .. math:: \frac{1}{C} \sum_c \left(\frac{z_{S,c} - z_{T,c}}{\tau}\right)^2

    Args:
        logits_S: As in :func:`cross_entropy`.
        logits_T: As in :func:`cross_entropy`.
        temperature: As in :func:`cross_entropy`.
        where: As in :func:`cross_entropy`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: The shapes of logits, temperature and ``where`` do not fit.

    Examples:
        >>> print(squared_error(jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])))
        [2. 0.]
    """
    return jnp.mean(_squared_gaps(logits_S, logits_T, temperature, where), axis=-1)


def _squared_gaps(logits_S: Array, logits_T: Array, temperature: Any, where: Any) -> Array:
    check_logits("squared_error", logits_S, logits_T, where)
    ruled_out = jnp.isneginf(logits_S) & jnp.isneginf(logits_T)
    logits_S, logits_T = (jnp.where(ruled_out, 0, logits) for logits in (logits_S, logits_T))
    z_S, z_T = (soften("squared_error", z, temperature, where) for z in (logits_S, logits_T))
    return (z_S - z_T) ** 2


def cross_entropy_of_distributions(
    p: Float[Array, "*batch classes"], log_q: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """``-sum(p log q)`` over the last axis with ``0 log 0 = 0``, also in the gradients."""
    return -jnp.sum(p * jnp.where(p != 0, log_q, 0), axis=-1)


def check_logits(loss: str, logits_S: Any, logits_T: Any, mask: Any) -> None:
    """Raises :class:`UsageError` unless logits and mask fit."""
    require_same_shape(loss, logits_S, logits_T, "batch", "length", "classes")
    require_mask(loss, mask, logits_S.shape[:-1])


def softened(
    loss: str, logits_S: Any, logits_T: Any, temperature: Any, mask: Any
) -> tuple[Array, Array]:
    """Both models' logits divided by the temperature, once it is clear that they fit."""
    check_logits(loss, logits_S, logits_T, mask)
    z_S, z_T = (soften(loss, logits, temperature, mask) for logits in (logits_S, logits_T))
    return z_S, z_T


def soften(loss: str, logits: Array, temperature: Any, mask: Array | None) -> Array:
    """``logits / temperature``, with zeros at padding."""
    check_temperature(loss, temperature, mask, logits.shape[:-1])
    logits = valid(logits, mask)
    if jnp.ndim(temperature) == 0:
        return logits / jnp.asarray(temperature, loss_dtype(logits, temperature))
    return logits / per_position(temperature, logits)


def check_temperature(loss: str, temperature: Any, mask: Any, positions: tuple[int, ...]) -> None:
    """Raises :class:`UsageError` unless a temperature fits positions, and is above 0 if known."""
    _require_temperature(loss, temperature, mask)
    if jnp.ndim(temperature) and temperature.shape not in (positions, positions[:1]):
        raise UsageError(
            f"{loss}: the temperature must be a scalar or have the shape {positions[:1]} or "
            f"{positions}, got {temperature.shape}."
        )


def _require_temperature(loss: str, temperature: Any, mask: Any) -> None:
    """Raises :class:`UsageError` for a mask in the temperature's place, and a temperature of 0.

    The temperature at padding is not read. Values that are traced are not known.
    """
    is_mask = jnp.result_type(temperature) == jnp.bool_
    if is_mask or not np.all(_known(temperature, mask) > 0):
        given = temperature if np.ndim(temperature) == 0 else "an array with other values"
        raise UsageError(
            f"{loss}: the third argument is the temperature, a number above 0, got {given}. Give a "
            "mask by its name, mask= or where=."
        )


def _known(temperature: Any, mask: Any) -> np.ndarray:
    """The temperatures that are read, where they are known."""
    if any(isinstance(x, jax.core.Tracer) for x in (temperature, mask)):
        return np.ones(())
    values = np.asarray(temperature)
    if mask is None or values.ndim == 0:
        return values
    read = np.asarray(mask) != 0
    read = read if values.ndim == read.ndim else read.reshape(len(read), -1).any(axis=1)
    return values[read] if values.shape == read.shape else values


def per_position(given: Any, values: Array) -> Array:
    """A temperature or weight with axes of size 1 added, so that it broadcasts with ``values``.

    Args:
        given: A scalar, or an array of the leading axes of ``values``.
        values: The array that it meets.

    Examples:
        >>> per_position(jnp.ones(4), jnp.zeros((4, 5, 6))).shape
        (4, 1, 1)
    """
    given = jnp.asarray(given, loss_dtype(values, given))
    extra = values.ndim - given.ndim if given.ndim else 0
    return jnp.reshape(given, given.shape + (1,) * extra)
