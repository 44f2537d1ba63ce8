r"""Divergences between the class distributions of student and teacher, beyond TextBrewer's.

Symbols: :math:`p = \sigma(z_T / \tau)` is the teacher's distribution and
:math:`q = \sigma(z_S / \tau)` the student's. Each loss is multiplied by the power of :math:`\tau`
that keeps its gradient in scale: for large :math:`\tau` the gradient of a smooth divergence shrinks
as :math:`1 / \tau^2` and that of the total variation, which is not smooth, as :math:`1 / \tau`.
Arguments, masks and sums are those of :func:`~jaxbrewer.losses.kd_ce_loss`.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..errors import UsageError
from ._logits import Logits, Mask, PerPosition, Temperature, per_position, softened
from ._reduction import Mean, as_loss, masked_mean, selected


@as_loss
def kl_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
) -> Mean:
    r"""Forward KL divergence, from teacher to student.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \sum_c p_{nc} (\log p_{nc} - \log q_{nc})

    This is :math:`\tau^2` times ``kd_ce_loss`` without the teacher's entropy: the same gradient up
    to that factor, and 0 where the models agree.

    Args:
        logits_S: Student's :math:`z_S`, ``(batch, classes)`` or ``(batch, length, classes)``. A
            class that only the student rules out with ``-inf`` makes the loss infinite.
        logits_T: Teacher's :math:`z_T`, of the same shape. A class it rules out contributes 0.
        temperature: :math:`\tau > 0`: a scalar, one per example, or one per position.
        mask: The shape of the logits without the classes; 0 excludes a position.

    Returns:
        A scalar, in float32 (float64 if an input is). ``kl_loss.sum_and_count`` returns the sum
        over positions and their number.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> print(f"{kl_loss(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]), temperature=2.0):.4f}")
        0.4438

    References:
        Hinton et al., Distilling the knowledge in a neural network, 2015, section 2 (the factor
        :math:`\tau^2`), https://arxiv.org/abs/1503.02531
    """
    values = kl_divergence(logits_S, logits_T, temperature, where=mask)
    return masked_mean(values, selected(mask))


@as_loss
def reverse_kl_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
) -> Mean:
    r"""Reverse KL divergence, from student to teacher: it keeps the student in the teacher's modes.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \sum_c q_{nc} (\log q_{nc} - \log p_{nc})

    Args:
        logits_S: As in :func:`kl_loss`.
        logits_T: As in :func:`kl_loss`, but a class that only the teacher rules out makes the loss
            infinite; ``jsd`` and ``skew_kl`` stay finite there.
        temperature: As in :func:`kl_loss`.
        mask: As in :func:`kl_loss`.

    Returns:
        A scalar, in float32 (float64 if an input is); ``reverse_kl_loss.sum_and_count`` returns
        the sum and the number of positions.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> student, teacher = jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]])
        >>> print(f"{reverse_kl_loss(student, teacher, temperature=2.0):.4f}")
        0.4805

    References:
        Gu et al., MiniLLM, 2023, section 2 (there estimated on the student's own samples),
        https://arxiv.org/abs/2306.08543
    """
    values = reverse_kl_divergence(logits_S, logits_T, temperature, where=mask)
    return masked_mean(values, selected(mask))


@as_loss
def jsd_loss(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    mask: Mask | None = None,
    *,
    beta: float = 0.5,
) -> Mean:
    r"""Generalised Jensen-Shannon divergence.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \left[\beta \, KL(p_n \| m_n)
        + (1 - \beta) \, KL(q_n \| m_n)\right], \; m = \beta p + (1 - \beta) q

    It is bounded, and symmetric for :math:`\beta = 1/2`. At both ends it vanishes:
    :math:`JSD_\beta / \beta \to KL(p \| q)` for :math:`\beta \to 0` and
    :math:`JSD_\beta / (1 - \beta) \to KL(q \| p)` for :math:`\beta \to 1`, so near the ends the
    weight of the loss must grow for the same pull. (TRL has this equation too, but takes the
    KL divergences without these factors at exactly 0 and 1; here those are ``kl`` and
    ``reverse_kl``.)

    Args:
        logits_S: Student's :math:`z_S`; any class may be ruled out by either or both models.
        logits_T: Teacher's :math:`z_T`.
        temperature: As in :func:`kl_loss`.
        mask: As in :func:`kl_loss`.
        beta: :math:`0 < \beta < 1`, the teacher's share in the mixture.

    Returns:
        A scalar, in float32 (float64 if an input is); ``jsd_loss.sum_and_count`` returns the sum
        and the number of positions.

    Raises:
        UsageError: ``beta`` is out of its range, or shapes do not fit.

    Examples:
        >>> student, teacher = jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])
        >>> print(f"{jsd_loss(student, teacher):.4f}")  # log 2, the most there is
        0.6931

    References:
        Agarwal et al., On-policy distillation of language models (GKD), 2023, equation 1,
        https://arxiv.org/abs/2306.13649
    """
    values = jensen_shannon_divergence(logits_S, logits_T, temperature, beta=beta, where=mask)
    return masked_mean(values, selected(mask))


@as_loss
def skew_kl_loss(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    mask: Mask | None = None,
    *,
    alpha: float = 0.1,
) -> Mean:
    r"""Skew KL divergence: from the teacher to a mixture of teacher and student.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \,
        KL\left(p_n \,\|\, \alpha p_n + (1 - \alpha) q_n\right)

    At most :math:`-\tau^2 \log \alpha`, even if the student gives no probability to a class of the
    teacher. For :math:`\alpha \to 0` it becomes ``kl``, for :math:`\alpha \to 1` it vanishes.

    Args:
        logits_S: Student's :math:`z_S`; any class may be ruled out by either or both models.
        logits_T: Teacher's :math:`z_T`.
        temperature: As in :func:`kl_loss`.
        mask: As in :func:`kl_loss`.
        alpha: :math:`0 < \alpha < 1`, the teacher's share in the mixture.

    Returns:
        A scalar, in float32 (float64 if an input is); ``skew_kl_loss.sum_and_count`` returns
        the sum and the number of positions.

    Raises:
        UsageError: ``alpha`` is out of its range, or shapes do not fit.

    Examples:
        >>> student, teacher = jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])
        >>> print(f"{skew_kl_loss(student, teacher, alpha=0.1):.4f}")  # -log 0.1
        2.3026

    References:
        Ko et al., DistiLLM, 2024, section 3.1, https://arxiv.org/abs/2402.03898
    """
    values = skew_kl_divergence(logits_S, logits_T, temperature, alpha=alpha, where=mask)
    return masked_mean(values, selected(mask))


@as_loss
def skew_reverse_kl_loss(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    mask: Mask | None = None,
    *,
    alpha: float = 0.1,
) -> Mean:
    r"""Skew reverse KL divergence: from the student to a mixture of student and teacher.

    .. math:: \frac{1}{N} \sum_n \tau_n^2 \,
        KL\left(q_n \,\|\, (1 - \alpha) p_n + \alpha q_n\right)

    For :math:`\alpha \to 0` it becomes ``reverse_kl``, for :math:`\alpha \to 1` it vanishes.

    Args:
        logits_S: Student's :math:`z_S`; any class may be ruled out by either or both models.
        logits_T: Teacher's :math:`z_T`.
        temperature: As in :func:`kl_loss`.
        mask: As in :func:`kl_loss`.
        alpha: :math:`0 < \alpha < 1`, the student's share in the mixture.

    Returns:
        A scalar, in float32 (float64 if an input is), as for :func:`skew_kl_loss`.

    Raises:
        UsageError: ``alpha`` is out of its range, or shapes do not fit.

    Examples:
        >>> student, teacher = jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])
        >>> print(f"{skew_reverse_kl_loss(student, teacher, alpha=0.1):.4f}")
        2.3026

    References:
        Ko et al., DistiLLM, 2024, section 3.1, https://arxiv.org/abs/2402.03898
    """
    values = skew_reverse_kl_divergence(logits_S, logits_T, temperature, alpha=alpha, where=mask)
    return masked_mean(values, selected(mask))


@as_loss
def tvd_loss(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, mask: Mask | None = None
) -> Mean:
    r"""Total variation distance.

    .. math:: \frac{1}{N} \sum_n \tau_n \, \tfrac{1}{2} \sum_c |p_{nc} - q_{nc}|

    The factor is :math:`\tau`, not its square: the distance is of first order in the gap between
    the logits, so its gradient shrinks as :math:`1 / \tau`.

    Args:
        logits_S: Student's :math:`z_S`; any class may be ruled out by either or both models.
        logits_T: Teacher's :math:`z_T`.
        temperature: As in :func:`kl_loss`.
        mask: As in :func:`kl_loss`.

    Returns:
        A scalar, in float32 (float64 if an input is); ``tvd_loss.sum_and_count`` returns the sum
        and the number of positions.

    Raises:
        UsageError: The shapes of logits, temperature and mask do not fit.

    Examples:
        >>> print(tvd_loss(jnp.array([[0.0, -jnp.inf]]), jnp.array([[-jnp.inf, 0.0]])))
        1.0

    References:
        Wen et al., f-divergence minimization for sequence-level knowledge distillation, 2023, its
        "TVD" (at temperature 1), https://arxiv.org/abs/2307.15190
    """
    values = total_variation(logits_S, logits_T, temperature, where=mask)
    return masked_mean(values, selected(mask))


def kl_divergence(
    logits_S: Logits, logits_T: Logits, temperature: Temperature = 1, *, where: Mask | None = None
) -> PerPosition:
    r"""Forward KL divergence at each position; see :func:`kl_loss`.

    .. math:: \tau^2 \sum_c p_c (\log p_c - \log q_c)

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: :math:`\tau > 0`: a scalar, one per example, or one per position.
        where: Positions to read, ``(*batch)``; ``None`` reads all. What the others hold reaches
            neither value nor gradient; their values are finite and mean nothing.

    Returns:
        Nats, ``(*batch)``, in float32 (float64 if an input is); :func:`masked_mean` averages them.

    Raises:
        UsageError: The shapes of logits, temperature and ``where`` do not fit.

    Examples:
        Tokens of which the teacher is certain count twice:

        >>> student, teacher = jnp.zeros((2, 3)), jnp.array([[4.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> weights = 1 + (jax.nn.softmax(teacher).max(-1) > 0.9)
        >>> print(f"{masked_mean(kl_divergence(student, teacher), weights).value():.4f}")
        0.6553
    """
    log_p, log_q = _log_probabilities("kl_divergence", logits_S, logits_T, temperature, where)
    return _scaled(kl_of_distributions(log_p, log_q), temperature)


def reverse_kl_divergence(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    *,
    where: Mask | None = None,
) -> PerPosition:
    r"""Reverse KL divergence at each position; see :func:`reverse_kl_loss`.

    .. math:: \tau^2 \sum_c q_c (\log q_c - \log p_c)

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
        >>> student, teacher = jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(reverse_kl_divergence(student, teacher).round(4))
        [0.43379998 0.        ]
    """
    log_p, log_q = _log_probabilities(
        "reverse_kl_divergence", logits_S, logits_T, temperature, where
    )
    return _scaled(kl_of_distributions(log_q, log_p), temperature)


def jensen_shannon_divergence(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    *,
    beta: float = 0.5,
    where: Mask | None = None,
) -> PerPosition:
    r"""Generalized Jensen-Shannon divergence at each position; see :func:`jsd_loss`.

    .. math:: \tau^2 [\beta \, KL(p \| m) + (1 - \beta) \, KL(q \| m)], \;
        m = \beta p + (1 - \beta) q

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: As in :func:`kl_divergence`.
        beta: :math:`0 < \beta < 1`, the teacher's share in the mixture.
        where: As in :func:`kl_divergence`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: ``beta`` is out of its range, or shapes do not fit.

    Examples:
        >>> student, teacher = jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(jensen_shannon_divergence(student, teacher).round(4))
        [0.0895 0.    ]
    """
    ends = "at 0 and 1 the loss is 0 for all logits; use 'kl' or 'reverse_kl'"
    name = "jensen_shannon_divergence"
    _require_between(name, "beta", beta, ends)
    log_p, log_q = _log_probabilities(name, logits_S, logits_T, temperature, where)
    log_m = _log_mixture(log_p, log_q, beta)
    to_m = kl_of_distributions(log_p, log_m), kl_of_distributions(log_q, log_m)
    return _scaled(beta * to_m[0] + (1 - beta) * to_m[1], temperature)


def skew_kl_divergence(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    *,
    alpha: float = 0.1,
    where: Mask | None = None,
) -> PerPosition:
    r"""Skew KL divergence at each position; see :func:`skew_kl_loss`.

    .. math:: \tau^2 \, KL(p \| \alpha p + (1 - \alpha) q)

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: As in :func:`kl_divergence`.
        alpha: :math:`0 < \alpha < 1`, the teacher's share in the mixture.
        where: As in :func:`kl_divergence`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: ``alpha`` is out of its range, or shapes do not fit.

    Examples:
        >>> student, teacher = jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(skew_kl_divergence(student, teacher).round(4))
        [0.2726 0.    ]
    """
    name = "skew_kl_divergence"
    _require_between(name, "alpha", alpha, "at 0 it is 'kl', at 1 it is always 0")
    log_p, log_q = _log_probabilities(name, logits_S, logits_T, temperature, where)
    return _scaled(kl_of_distributions(log_p, _log_mixture(log_p, log_q, alpha)), temperature)


def skew_reverse_kl_divergence(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    *,
    alpha: float = 0.1,
    where: Mask | None = None,
) -> PerPosition:
    r"""Skew reverse KL divergence at each position; see :func:`skew_reverse_kl_loss`.

    .. math:: \tau^2 \, KL(q \| (1 - \alpha) p + \alpha q)

    Args:
        logits_S: Student's logits, ``(*batch, classes)``.
        logits_T: Teacher's logits, of the same shape.
        temperature: As in :func:`kl_divergence`.
        alpha: :math:`0 < \alpha < 1`, the student's share in the mixture.
        where: As in :func:`kl_divergence`.

    Returns:
        ``(*batch)``, in float32 (float64 if an input is).

    Raises:
        UsageError: ``alpha`` is out of its range, or shapes do not fit.

    Examples:
        >>> student, teacher = jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(skew_reverse_kl_divergence(student, teacher).round(4))
        [0.3173 0.    ]
    """
    name = "skew_reverse_kl_divergence"
    _require_between(name, "alpha", alpha, "at 0 it is 'reverse_kl', at 1 it is always 0")
    log_p, log_q = _log_probabilities(name, logits_S, logits_T, temperature, where)
    return _scaled(kl_of_distributions(log_q, _log_mixture(log_q, log_p, alpha)), temperature)


def total_variation(
    logits_S: Logits,
    logits_T: Logits,
    temperature: Temperature = 1,
    *,
    where: Mask | None = None,
) -> PerPosition:
    r"""Total variation distance at each position; see :func:`tvd_loss`.

    .. math:: \tau \, \tfrac{1}{2} \sum_c |p_c - q_c|

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
        >>> student, teacher = jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(total_variation(student, teacher).round(4))
        [0.38079998 0.        ]
    """
    log_p, log_q = _log_probabilities("total_variation", logits_S, logits_T, temperature, where)
    distance = jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1) / 2
    return _scaled(distance, temperature, power=1)


def kl_of_distributions(log_p: Logits, log_q: Logits) -> PerPosition:
    """``sum(p (log p - log q))`` over the last axis with ``0 log 0 = 0``, also in the gradients."""
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, log_p - log_q, 0), axis=-1)


def _log_probabilities(
    loss: str, logits_S: Array, logits_T: Array, temperature: Any, mask: Array | None
) -> tuple[Array, Array]:
    """``log p`` of the teacher and ``log q`` of the student."""
    z_S, z_T = softened(loss, logits_S, logits_T, temperature, mask)
    log_q, log_p = jax.nn.log_softmax(z_S), jax.nn.log_softmax(z_T)
    return log_p, log_q


def _log_mixture(log_p: Array, log_q: Array, share: float) -> Array:
    """``log(share p + (1 - share) q)``; of no meaning where both are 0, but finite there."""
    ruled_out = jnp.isneginf(log_p) & jnp.isneginf(log_q)
    log_p, log_q = (jnp.where(ruled_out, 0, log) for log in (log_p, log_q))
    return jnp.logaddexp(log_p + jnp.log(share), log_q + jnp.log1p(-share))


def _scaled(values: Array, temperature: Any, power: int = 2) -> Array:
    return values * per_position(temperature, values) ** power


def _require_between(loss: str, name: str, value: object, ends: str) -> None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < 1:  # type: ignore[arg-type]
        raise UsageError(f"{loss}: {name} must lie between 0 and 1, got {value!r} ({ends}).")
