"""Losses between logits that treat the classes apart: several labels, one target, z-scores."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from ..errors import UsageError
from ._divergences import kl_of_distributions
from ._logits import (
    Logits,
    Mask,
    PerPosition,
    Temperature,
    check_logits,
    per_position,
    soften,
    softened,
)
from ._reduction import Mean, as_loss, masked_mean, selected, valid

Labels = Integer[Array, "*batch"]


@as_loss
def bce_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
) -> Mean:
    r"""Binary cross entropy of each class under the teacher, for several labels at a time.

    .. math:: -\frac{1}{N C} \sum_{n, c} \tau_n^2
        \left[p_{nc} \log q_{nc} + (1 - p_{nc}) \log (1 - q_{nc})\right], \;
        p = \mathrm{sigmoid}(z_T / \tau), \; q = \mathrm{sigmoid}(z_S / \tau)

    The least value is :math:`\tau^2` times the mean binary entropy of the teacher, not 0.

    Args:
        logits_S: Student's :math:`z_S`, ``(batch, classes)`` or ``(batch, length, classes)``. A
            class that only the student rules out with ``-inf`` makes the loss infinite.
        logits_T: Teacher's :math:`z_T`, of the same shape. A class that both rule out contributes
            0.
        temperature: :math:`\tau > 0`: a scalar, one per example, or one per position.
        mask: The shape of the logits without the classes; 0 excludes a position.

    Returns:
        A scalar, in float32 (float64 if an input is). ``bce_loss.sum_and_count`` returns the sum
        over positions and classes, and their number.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> print(f"{bce_loss(jnp.zeros((1, 2)), jnp.array([[9.0, -9.0]])):.4f}")
        0.6931

    References:
        Hinton et al., 2015, section 2 (softening, for one of several classes),
        https://arxiv.org/abs/1503.02531; with a sigmoid per class in place of the softmax
    """
    return masked_mean(_binary_terms(logits_S, logits_T, temperature, mask), selected(mask))


@as_loss
def dkd_loss(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    mask: Mask | None = None,
    *,
    labels: Labels,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Mean:
    r"""Decoupled distillation: the target class against the rest, and the rest among themselves.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \left[\alpha \, KL(b^T_n \| b^S_n)
        + \beta \, KL(\hat p_n \| \hat q_n)\right], \;
        b = (p_t, 1 - p_t), \; \hat p = \frac{p_{c \ne t}}{1 - p_t}

    :math:`t` is the label. With :math:`\alpha = 1` and :math:`\beta = 1 - p_t` this would be
    ``kl``. In a config the labels are those of the adaptor (the student's, else the teacher's).

    Args:
        logits_S: As in :func:`bce_loss`.
        logits_T: As in :func:`bce_loss`.
        temperature: As in :func:`bce_loss`.
        mask: As in :func:`bce_loss`.
        labels: The class :math:`t` of each position, of the shape of the logits without the
            classes. A position whose label is no class (negative, such as -100, or too large)
            does not count.
        alpha: :math:`\alpha`, weight of the target class.
        beta: :math:`\beta`, weight of the other classes.

    Returns:
        A scalar, in float32 (float64 if an input is). ``dkd_loss.sum_and_count`` returns the sum
        over positions with a label, and their number.

    Raises:
        UsageError: The shapes of logits, labels, temperature and mask do not fit.

    Examples:
        >>> teacher = jnp.array([[3.0, 1.0, 0.0]])
        >>> print(f"{dkd_loss(jnp.zeros((1, 3)), teacher, labels=jnp.array([0])):.4f}")
        1.4446

    References:
        Zhao et al., Decoupled knowledge distillation, CVPR 2022, equation 7 (with the factor
        :math:`\tau^2` of the authors' code), https://arxiv.org/abs/2203.08679
    """
    check_logits("dkd_loss", logits_S, logits_T, mask)
    classes = logits_S.shape[-1]
    if labels.shape != logits_S.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UsageError(
            f"dkd_loss: integer labels of the shape {logits_S.shape[:-1]} are needed, got "
            f"{labels.dtype} {labels.shape}."
        )
    if classes < 2:
        raise UsageError("dkd_loss: there must be two classes at least.")
    counted = (labels >= 0) & (labels < classes)
    if mask is not None:
        counted &= selected(mask)
    values = decoupled_kl_divergence(
        logits_S, logits_T, temperature, labels=labels, alpha=alpha, beta=beta, where=counted
    )
    return masked_mean(values, counted)


@as_loss
def standardized_kl_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
) -> Mean:
    r"""Forward KL divergence of standardised logits: only the shape of the teacher's matters.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \, KL\left(\sigma(\mathcal Z(z_T) / \tau) \,\|\,
        \sigma(\mathcal Z(z_S) / \tau)\right), \;
        \mathcal Z(z) = \frac{z - \bar z}{\sqrt{\tfrac{1}{C} \sum_c (z_c - \bar z)^2}}

    Shifting and (positively) scaling the logits of either model changes nothing, so the student
    need not reach the teacher's confidence. Equal logits stay 0 and have no gradient. The
    deviation is the paper's, with :math:`1 / C`; the authors' code has :math:`1 / (C - 1)`.

    Args:
        logits_S: As in :func:`bce_loss`; a class with ``-inf`` is left out of mean and deviation.
        logits_T: As in :func:`bce_loss`.
        temperature: As in :func:`bce_loss`; the paper's is 2.
        mask: As in :func:`bce_loss`.

    Returns:
        A scalar, in float32 (float64 if an input is); ``standardized_kl_loss.sum_and_count``
        returns the sum over positions and their number.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> student, teacher = jnp.array([[0.0, 0.1, 0.2]]), jnp.array([[5.0, 7.0, 9.0]])
        >>> print(f"{abs(standardized_kl_loss(student, teacher)):.4f}")
        0.0000

    References:
        Sun et al., Logit standardization in knowledge distillation, CVPR 2024, algorithm 1,
        https://arxiv.org/abs/2403.01427
    """
    values = standardized_kl_divergence(logits_S, logits_T, temperature, where=mask)
    return masked_mean(values, selected(mask))


def binary_cross_entropy(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, *, where: Mask | None = None
) -> PerPosition:
    r"""Mean binary cross entropy of the classes at each position; see :func:`bce_loss`.

    .. math:: -\frac{\tau^2}{C} \sum_c \left[p_c \log q_c + (1 - p_c) \log (1 - q_c)\right]

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: As in :func:`kl_divergence`.
        where: As in :func:`kl_divergence`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: The shapes of logits, temperature and ``where`` do not fit.

    Examples:
        >>> print(binary_cross_entropy(jnp.zeros((1, 2)), jnp.array([[9.0, -9.0]])).round(4))
        [0.6931]
    """
    return jnp.mean(_binary_terms(logits_S, logits_T, temperature, where), axis=-1)


def decoupled_kl_divergence(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    *,
    labels: Labels,
    alpha: float = 1.0,
    beta: float = 8.0,
    where: Mask | None = None,
) -> PerPosition:
    r"""Decoupled distillation at each position; see :func:`dkd_loss`.

    .. math:: \tau^2 \left[\alpha \, KL(b^T \| b^S) + \beta \, KL(\hat p \| \hat q)\right]

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: As in :func:`kl_divergence`.
        labels: The class of each position, ``(*batch)``. A position whose label is no class has no
            target to set apart; :func:`dkd_loss` does not count it.
        alpha: :math:`\alpha`, weight of the target class.
        beta: :math:`\beta`, weight of the other classes.
        where: As in :func:`kl_divergence`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: The shapes of logits, labels, temperature and ``where`` do not fit.

    Examples:
        >>> teacher, labels = jnp.array([[3.0, 1.0, 0.0]]), jnp.array([0])
        >>> print(decoupled_kl_divergence(jnp.zeros((1, 3)), teacher, labels=labels).round(4))
        [1.4446]
    """
    check_logits("decoupled_kl_divergence", logits_S, logits_T, where)
    target = jax.nn.one_hot(labels, logits_S.shape[-1], dtype=bool)
    parts = []
    for logits in (logits_T, logits_S):
        z = soften("decoupled_kl_divergence", logits, temperature, where)
        others, has_others = _without(target, z)
        log_t = jnp.sum(jnp.where(target, jax.nn.log_softmax(z), 0), axis=-1)
        log_rest = jax.nn.logsumexp(others, axis=-1) - jax.nn.logsumexp(z, axis=-1)
        log_rest = jnp.where(has_others, log_rest, -jnp.inf)
        parts.append(
            (jnp.stack([log_t, log_rest], axis=-1), jax.nn.log_softmax(others), has_others)
        )
    (b_T, p_hat, some_T), (b_S, q_hat, some_S) = parts
    among_others = jnp.where(some_T & some_S, kl_of_distributions(p_hat, q_hat), 0)
    values = alpha * kl_of_distributions(b_T, b_S) + beta * among_others
    return values * per_position(temperature, values) ** 2


def standardized_kl_divergence(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, *, where: Mask | None = None
) -> PerPosition:
    r"""Forward KL divergence of z-scores at each position; see :func:`standardized_kl_loss`.

    .. math:: \tau^2 \, KL\left(\sigma(\mathcal Z(z_T) / \tau) \,\|\,
        \sigma(\mathcal Z(z_S) / \tau)\right)

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: As in :func:`kl_divergence`.
        where: As in :func:`kl_divergence`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: The shapes of logits, temperature and ``where`` do not fit.

    Examples:
        >>> student, teacher = jnp.array([[0.0, 1.0, 0.0]]), jnp.array([[5.0, 7.0, 9.0]])
        >>> print(standardized_kl_divergence(student, teacher).round(4))
        [1.1484]
    """
    name = "standardized_kl_divergence"
    check_logits(name, logits_S, logits_T, where)
    log_q, log_p = (
        jax.nn.log_softmax(soften(name, _standardize(valid(z, where)), temperature, where))
        for z in (logits_S, logits_T)
    )
    values = kl_of_distributions(log_p, log_q)
    return values * per_position(temperature, values) ** 2


def _binary_terms(logits_S: Array, logits_T: Array, temperature: Any, where: Any) -> Array:
    """The binary cross entropy of each class, ``(*batch, classes)``."""
    z_S, z_T = softened("binary_cross_entropy", logits_S, logits_T, temperature, where)
    p, not_p = jax.nn.sigmoid(z_T), jax.nn.sigmoid(-z_T)
    log_q, log_not_q = jax.nn.log_sigmoid(z_S), jax.nn.log_sigmoid(-z_S)
    values = p * jnp.where(p > 0, log_q, 0) + not_p * jnp.where(not_p > 0, log_not_q, 0)
    return -values * per_position(temperature, values) ** 2


def _without(target: Array, z: Array) -> tuple[Array, Array]:
    """The logits with ``-inf`` at the target, and whether any class is left.

    Where none is, the result is 0 everywhere, which is finite.
    """
    others = jnp.where(target, -jnp.inf, z)
    has_others = jnp.any(~jnp.isneginf(others), axis=-1)
    return jnp.where(has_others[..., None], others, 0), has_others


def _standardize(z: Any) -> Array:
    """The z-scores of each row over the classes that are not ``-inf``."""
    kept = ~jnp.isneginf(z)
    number = jnp.maximum(jnp.sum(kept, axis=-1, keepdims=True, dtype=z.dtype), 1)
    largest = jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
    z = jnp.where(kept, z - largest, 0)  # so that equal numbers have the variance 0 exactly
    centred = jnp.where(kept, z - jnp.sum(z, axis=-1, keepdims=True) / number, 0)
    variance = jnp.sum(centred**2, axis=-1, keepdims=True) / number
    scores = jnp.where(variance > 0, centred / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return jnp.where(kept, scores, -jnp.inf)
