"""Weights and base temperatures as functions of the optimizer step."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ..errors import UsageError, suggest
from ..registry import WEIGHT_SCHEDULER

Scalar = float | Float[Array, ""]
Schedule = Callable[[Any], Scalar]
"""From the number of finished optimizer steps to a weight."""


def linear_growth(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """From 0 to 1: the finished fraction ``x`` of the training itself.

    Examples:
        >>> linear_growth(0.25)
        0.25
    """
    return x


def linear_decay(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """From 1 to 0: the remaining fraction of the training when the fraction ``x`` is finished.

    Examples:
        >>> linear_decay(0.25)
        0.75
    """
    return 1 - x


def weight_schedule(spec: Any, constant: float, total_steps: int | None = None) -> Schedule | float:
    """The weight of a loss as a function of the optimizer step.

    Args:
        spec: ``"none"``: always ``constant``. A name of ``WEIGHT_SCHEDULER``, or a function: the
            weight in place of the constant, from step 0 on. ``{"schedule": name, **parameters}`` or
            ``[name, parameters]``: a row of that table, or the optax schedule of that name.
        constant: The weight for ``"none"``.
        total_steps: Optimizer steps of the whole training, needed by functions of the finished
            fraction, ``step / total_steps``.

    Returns:
        ``schedule(step) -> weight``, optax-style; for ``"none"`` the constant itself, as a Python
        float, so that the caller sees a weight that is always 0 before anything is traced.

    Raises:
        UsageError: The name is unknown, the arguments are wrong, ``total_steps`` is missing, or a
            value is not a finite number.

    Examples:
        >>> decay = weight_schedule("linear_decay", 0.3, total_steps=4)
        >>> print([float(decay(step)) for step in range(6)])
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        >>> square = weight_schedule(lambda fraction: fraction**2, 1.0, total_steps=4)
        >>> print([float(square(step)) for step in range(5)])
        [0.0, 0.0625, 0.25, 0.5625, 1.0]
        >>> warmup = {"schedule": "linear_schedule", "init_value": 0, "end_value": 2,
        ...           "transition_steps": 10}
        >>> print(weight_schedule(warmup, 1.0)(5))
        1.0
        >>> weight_schedule("none", 0)
        0.0
    """
    if isinstance(spec, str) and spec == "none":
        return float(constant)
    schedule = _schedule(spec, total_steps)
    _require_values(spec, schedule, total_steps, positive=False)
    return schedule


def temperature_schedule(spec: Any, total_steps: int | None = None) -> Schedule | float:
    """The base temperature: a number, or a function of the optimizer step.

    Args:
        spec: A positive number, or a schedule as for :func:`weight_schedule`.
        total_steps: Optimizer steps of the whole training.

    Raises:
        UsageError: As for :func:`weight_schedule`, or a temperature is not above 0 at some step.

    Examples:
        >>> falling = {"schedule": "linear_schedule", "init_value": 4, "end_value": 0,
        ...            "transition_steps": 10}
        >>> temperature_schedule(falling, total_steps=10)
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: The schedule 'linear_schedule' is 0 at step 10: ...
    """
    if isinstance(spec, (int, float)):
        return spec
    schedule = _schedule(spec, total_steps)
    _require_values(spec, schedule, total_steps, positive=True)
    return schedule


def _schedule(spec: Any, total_steps: int | None) -> Schedule:
    if callable(spec) or isinstance(spec, str):
        return _of_row(spec, {}, total_steps)
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        name = arguments.pop("schedule", None)
    elif isinstance(spec, Sequence) and len(spec) == 2 and isinstance(spec[1], Mapping):
        name, arguments = spec[0], dict(spec[1])
    else:
        raise UsageError(
            f'a schedule must be a name, {{"schedule": name, ...}} or a function, got {spec!r}.'
        )
    if name in WEIGHT_SCHEDULER:
        return _of_row(name, arguments, total_steps)
    return _optax_schedule(name, arguments)


def _of_row(spec: Any, arguments: dict[str, Any], total_steps: int | None) -> Schedule:
    """A function given directly or by its name, as a function of the step."""
    row = WEIGHT_SCHEDULER.row(spec)
    function = row.load()
    require_call(f"schedule {_name(spec)!r}", function, (0,), arguments)
    if row.argument == "step":
        return lambda step: function(step, **arguments)
    if total_steps is None:
        raise UsageError(
            f"schedule {_name(spec)!r} needs the number of optimizer steps: give num_steps, or "
            "num_epochs with a data loader that has a length."
        )
    total = max(total_steps, 1)
    return lambda step: function(jnp.minimum(jnp.asarray(step, float) / total, 1.0), **arguments)


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
    except Exception as error:  # optax checks some arguments only by failing
        raise UsageError(f"schedule {name!r}: {first_line(error)}") from None


def _require_values(
    spec: Any, schedule: Schedule, total_steps: int | None, *, positive: bool
) -> None:
    """Raises :class:`UsageError` if a schedule leaves its range at some step of the training."""
    last = LOOK_AHEAD if total_steps is None else total_steps
    steps = np.unique(np.linspace(0, last, min(last, LOOK_AHEAD) + 1).astype(np.int32))
    name = _name(spec)
    try:
        values = jax.device_get(jax.vmap(schedule)(steps))
    except UsageError:
        raise
    except Exception as error:  # the user's function: a Python `if`, another signature
        raise UsageError(
            f"The schedule {name!r} fails on a traced step (use jnp.where for if, jnp for math): "
            f"{type(error).__name__}: {first_line(error)}"
        ) from None
    values = np.asarray(values, np.float64)
    if values.shape != steps.shape:
        raise UsageError(f"The schedule {name!r} must return a scalar, got {values.shape[1:]}.")
    wrong = ~np.isfinite(values) | (positive & (values <= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        needs = "a temperature must be above 0" if positive else "a weight must be finite"
        raise UsageError(f"The schedule {name!r} is {values[at]:g} at step {steps[at]}: {needs}.")


LOOK_AHEAD = 10_000
"""Steps that are looked at: all of a shorter training, as many spread over a longer one."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a message of one line."""
    return next(iter(str(error).splitlines()), "")


def _name(spec: Any) -> str:
    if isinstance(spec, Mapping):
        return str(spec.get("schedule"))
    if isinstance(spec, (list, tuple)):
        return str(spec[0])
    return spec if isinstance(spec, str) else getattr(spec, "__name__", repr(spec))


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
