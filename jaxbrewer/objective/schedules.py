"""Weights and base temperatures as functions of the optimizer step."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..errors import UsageError, suggest
from ..registry import WEIGHT_SCHEDULER

Scalar = float | Float[Array, ""]
Schedule = Callable[[Any], Scalar]
"""From the number of finished optimizer updates to a weight."""


def linear_growth(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """From 0 to 1: the finished fraction ``x`` of the training itself.

    Examples:
        >>> linear_growth(0.25)
        0.25
    """
    return x


def linear_decay(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """From 1 to 0: what is left of the training when the fraction ``x`` is finished.

    Examples:
        >>> linear_decay(0.25)
        0.75
    """
    return 1 - x


def weight_schedule(spec: Any, constant: float, total_steps: int | None = None) -> Schedule | float:
    """The weight of a loss as a function of the optimizer update.

    Args:
        spec: ``"none"``: always ``constant``. A name of ``WEIGHT_SCHEDULER``: that function of
            the finished fraction ``step / total_steps``, from step 0 on and in place of the
            constant. ``{"schedule": name, **arguments}`` or ``[name, arguments]``: the optax
            schedule of that name. A function of the step: itself.
        constant: The weight for ``"none"``.
        total_steps: Optimizer updates of the whole training; names of ``WEIGHT_SCHEDULER`` need
            it.

    Returns:
        ``schedule(step) -> weight``, optax-style; for ``"none"`` the constant itself, as a Python
        float, so that the caller sees a weight that is always 0 before anything is traced.

    Raises:
        UsageError: The name is unknown, the arguments are wrong, or ``total_steps`` is missing.

    Examples:
        >>> decay = weight_schedule("linear_decay", 0.3, total_steps=4)
        >>> print([float(decay(step)) for step in range(6)])
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        >>> warmup = {"schedule": "linear_schedule", "init_value": 0, "end_value": 2,
        ...           "transition_steps": 10}
        >>> print(weight_schedule(warmup, 1.0)(5))
        1.0
        >>> weight_schedule("none", 0)
        0.0
    """
    if spec == "none":
        return float(constant)
    if callable(spec):
        return spec
    if isinstance(spec, str):
        return _of_fraction(spec, total_steps)
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        return _optax_schedule(arguments.pop("schedule", None), arguments)
    if isinstance(spec, Sequence) and len(spec) == 2 and isinstance(spec[1], Mapping):
        return _optax_schedule(spec[0], dict(spec[1]))
    raise UsageError(
        f'a schedule must be a name, {{"schedule": name, ...}} or a function, got {spec!r}.'
    )


def _of_fraction(name: str, total_steps: int | None) -> Schedule:
    function = WEIGHT_SCHEDULER[name]
    if total_steps is None:
        raise UsageError(
            f"weight scheduler {name!r} needs the number of optimizer updates: give num_steps, "
            "or num_epochs with a data loader that has a length."
        )
    total = max(total_steps, 1)
    return lambda step: function(jnp.minimum(jnp.asarray(step, float) / total, 1.0))


def _optax_schedule(name: Any, arguments: dict[str, Any]) -> Schedule:
    known = [row for row in dir(optax.schedules) if row.endswith("_schedule") and row[0] != "_"]
    if name not in known:
        raise UsageError(f"schedule {name!r} is not one of optax: {suggest(name, known)}")
    for key, value in arguments.items():
        if isinstance(value, Mapping):  # {step: scale}, whose keys are text in JSON
            arguments[key] = {int(step): scale for step, scale in value.items()}
    builder = getattr(optax.schedules, name)
    require_call(f"schedule {name!r}", builder, (), arguments)
    try:
        return builder(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"schedule {name!r}: {error}") from None


def require_call(
    subject: str, function: Any, given: Sequence[Any], named: Mapping[str, Any]
) -> None:
    """Raises :class:`UsageError` if ``function`` cannot be called like this."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    takes = inspect.Signature(parameters)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for name in named:
            if name not in takes.parameters:
                raise UsageError(
                    f"{subject} has no argument {name!r}: {suggest(name, takes.parameters)}"
                )
    try:
        takes.bind(*given, **named)
    except TypeError as error:
        raise UsageError(f"{subject}: {error}; it takes {takes}.") from None
