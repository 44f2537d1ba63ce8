"""Temperatures per position, as functions of both models' logits."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ..losses import masked_mean, selected, valid
from ..registry import TEMPERATURE_SCHEDULER
from .schedules import Scalar, require_call


class TemperatureRule(Protocol):
    """From the logits of both models to a temperature per position, without gradient."""

    def __call__(
        self,
        logits_S: Float[Array, "*batch classes"],
        logits_T: Float[Array, "*batch classes"],
        base_temperature: Scalar,
        mask: Shaped[Array, "*batch"] | None = None,
    ) -> Scalar | Float[Array, "*batch"]:
        """The temperature, of the shape of the logits without the classes, or a scalar."""


@dataclasses.dataclass(frozen=True)
class AroundTheMean:
    """The base temperature, lowered at positions whose score is above the mean.

    The score is a function of each position's logits, so that it can be computed in chunks.

    Attributes:
        score: ``(logits_S, logits_T, mask) -> a number per position``.
        beta: How far the temperature may move.
        minimum: The least temperature.
    """

    score: Callable[[Any, Any, Any], Array]
    beta: float
    minimum: float

    def __call__(
        self, logits_S: Any, logits_T: Any, base_temperature: Any, mask: Any = None
    ) -> Array:
        """The temperature of each position, without a gradient."""
        logits_S, logits_T = jax.lax.stop_gradient((logits_S, logits_T))
        return self.of_scores(self.score(logits_S, logits_T, mask), base_temperature, mask)

    def of_scores(self, scores: Array, base: Any, mask: Any) -> Array:
        """The temperature of each position from the scores; the mean is over ``mask``."""
        mean = masked_mean(scores, selected(mask)).value()
        return jnp.maximum(base + (mean - scores) * self.beta, self.minimum)


def constant_temperature() -> TemperatureRule:
    """The base temperature at every position.

    Examples:
        >>> constant_temperature()(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 4.0)
        4.0
    """

    def rule(logits_S: Any, logits_T: Any, base_temperature: Any, mask: Any = None) -> Any:
        return base_temperature

    return rule


def flsw_temperature(
    beta: float, gamma: float, eps: float = 1e-4, *, minimum: float = 0.01
) -> TemperatureRule:
    r"""Focal logit-similarity weights: higher where the models agree, lower where they differ.

    .. math:: \tau_i = \max\left(\tau_{min},\;
        \tau_0 + \beta \left(\tfrac{1}{N} \textstyle\sum_n w_n - w_i\right)\right), \;
        w_i = \left(1 - \frac{z_{S,i} \cdot z_{T,i}}
        {(\lVert z_{S,i} \rVert + \epsilon) (\lVert z_{T,i} \rVert + \epsilon)}\right)^\gamma

    Args:
        beta: :math:`\beta`, how far the temperature may move.
        gamma: :math:`\gamma \ge 0`, the extra weight of dissimilar positions.
        eps: :math:`\epsilon`, added to the norms.
        minimum: :math:`\tau_{min}`, above 0. TextBrewer has none, so that its temperature can
            become 0 or negative.

    Returns:
        A rule. The mean is over the positions where its ``mask`` is not 0; a class with the
        logit ``-inf`` is left out of the cosine.

    Raises:
        UsageError: An argument is not a number in its range.

    Examples:
        >>> rule = flsw_temperature(beta=1, gamma=1)
        >>> student, teacher = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[9.0, 0], [0, 9.0]])
        >>> print(rule(student, teacher, 4.0).round(2))  # the first agrees, the second does not
        [4.5 3.5]

    References:
        Wen et al., Preparing lessons: improve knowledge distillation with better supervision,
        2019, https://arxiv.org/abs/1911.07471
    """
    _require_numbers("flsw", beta=beta, gamma=gamma, eps=eps, minimum=minimum)
    if gamma < 0:
        raise UsageError(f"temperature rule 'flsw': gamma must not be negative, got {gamma!r}.")

    def score(logits_S: Any, logits_T: Any, mask: Any) -> Array:
        z_S, z_T = (_finite(logits, mask) for logits in (logits_S, logits_T))
        unit_S, unit_T = (
            z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + eps) for z in (z_S, z_T)
        )
        gap = jnp.maximum(1 - jnp.sum(unit_S * unit_T, axis=-1), 0)  # rounds below 0 otherwise
        return gap**gamma

    return AroundTheMean(score, beta, minimum)


def cwsm_temperature(beta: float, *, minimum: float = 0.01) -> TemperatureRule:
    r"""Confidence-weighted softening: higher where the student is confident.

    .. math:: \tau_i = \max\left(\tau_{min},\;
        \tau_0 + \beta \left(\tfrac{1}{N} \textstyle\sum_n w_n - w_i\right)\right), \;
        w_i = \frac{1}{\max_c \sigma(z_{S,i})_c + 10^{-3}}

    Args:
        beta: :math:`\beta`, how far the temperature may move.
        minimum: :math:`\tau_{min}`, above 0. TextBrewer has none, so that its temperature can
            become 0 or negative.

    Returns:
        A rule. The mean is over the positions where its ``mask`` is not 0.

    Raises:
        UsageError: An argument is not a number.

    Examples:
        >>> student = jnp.array([[9.0, 0.0], [0.0, 0.0]])
        >>> print(cwsm_temperature(beta=1)(student, student, 4.0).round(2))
        [4.5 3.5]

    References:
        Wen et al., Preparing lessons: improve knowledge distillation with better supervision,
        2019, https://arxiv.org/abs/1911.07471
    """
    _require_numbers("cwsm", beta=beta, minimum=minimum)

    def score(logits_S: Any, logits_T: Any, mask: Any) -> Array:
        confidence = jnp.max(jax.nn.softmax(valid(logits_S, mask)), axis=-1)
        return 1 / (confidence + 1e-3)

    return AroundTheMean(score, beta, minimum)


def temperature_rule(spec: Any) -> TemperatureRule:
    """The rule that a config's ``temperature_scheduler`` names.

    Args:
        spec: ``"none"`` or ``"constant"``; ``[name, *arguments]`` or ``[name, {...}]`` with a
            name of ``TEMPERATURE_SCHEDULER``; or a rule.

    Returns:
        ``rule(logits_S, logits_T, base_temperature, mask=None)``; no gradient passes through it.

    Raises:
        UsageError: The name is unknown, or arguments are missing or too many.

    Examples:
        >>> logits = jnp.zeros((3, 5, 2))
        >>> temperature_rule(["flsw", 1, 2])(logits, logits, 4.0).shape
        (3, 5)
        >>> temperature_rule("flsw")
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: temperature rule 'flsw': missing a required argument: 'beta'...
    """
    if callable(spec):
        rule = spec
        require_call("temperature_scheduler", rule, ("logits_S", "logits_T", 1.0, None), {})
    else:
        name, *given = (spec,) if isinstance(spec, str) else tuple(spec)
        builder = constant_temperature if name == "none" else TEMPERATURE_SCHEDULER[name]
        named: dict[str, Any] = {}
        if given and isinstance(given[-1], Mapping):
            named = dict(given.pop())
        require_call(f"temperature rule {name!r}", builder, given, named)
        rule = builder(*given, **named)
    if isinstance(rule, AroundTheMean):
        return rule

    def without_gradient(
        logits_S: Any, logits_T: Any, base_temperature: Any, mask: Any = None
    ) -> Any:
        logits_S, logits_T = jax.lax.stop_gradient((logits_S, logits_T))
        return rule(logits_S, logits_T, base_temperature, mask)

    return without_gradient


def _finite(logits: Array, mask: Any) -> Array:
    logits = valid(logits, mask)
    return jnp.where(jnp.isneginf(logits), 0, logits)


def _require_numbers(name: str, *, minimum: Any, **arguments: Any) -> None:
    for argument, value in {**arguments, "minimum": minimum}.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) < math.inf:
            raise UsageError(
                f"temperature rule {name!r}: {argument} must be a finite number, got {value!r}."
            )
    if minimum <= 0:
        raise UsageError(f"temperature rule {name!r}: minimum must be above 0, got {minimum!r}.")
