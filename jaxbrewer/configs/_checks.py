"""Checks of fields that several configs have: names of rows, losses, schedules, projections."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError, shown, suggest
from ..registry import (
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    Row,
    Table,
    loss_and_parameters,
)
from ._base import Config, is_int, plain

ScheduleSpec = str | Mapping[str, Any] | Callable[..., Any]
"""``"none"``, a name of ``WEIGHT_SCHEDULER``, ``{"schedule": name, **parameters}`` with a name of
that table or of optax, or a function whose argument is called ``step`` or ``fraction``."""

LossSpec = str | Mapping[str, Any]
"""A name, or ``{"loss": name, **parameters}``."""

TemperatureSpec = str | Sequence[Any] | Callable[..., Any]
"""``"none"``, ``"constant"``, ``["flsw", beta, gamma]``, ``["cwsm", beta]`` or a rule."""


def require_row(field: str, name: object, rows: Any) -> None:
    """Raises :class:`UsageError` unless ``name`` is one of ``rows``."""
    if not isinstance(name, str) or name not in rows:
        raise UsageError(f"{field} {shown(name)} is unknown: {suggest(name, rows)}")


def require_loss(field: str, spec: object, table: Table[Any]) -> None:
    """Raises :class:`UsageError` unless ``spec`` is a :data:`LossSpec` of ``table``."""
    if isinstance(spec, Mapping):
        if "loss" not in spec:
            raise UsageError(f"{field} {shown(plain(spec))} needs the key 'loss', a name.")
        name, parameters = loss_and_parameters(spec)
    else:
        name, parameters = spec, {}  # type: ignore[assignment]
    require_row(field, name, table)
    _require_parameters(f"{field} {shown(name)}", table.row(name), parameters)


def require_match_loss(match: Config, layers: int) -> None:
    """Raises :class:`UsageError` unless ``match.loss`` is a loss of ``layers`` layers."""
    field, spec = f"{type(match).__name__}.loss", match.loss  # type: ignore[attr-defined]
    require_loss(field, spec, MATCH_LOSS_MAP)
    takes = MATCH_LOSS_MAP.row(spec).layers
    if takes not in (None, layers):
        name, _ = loss_and_parameters(spec)
        one = [name for name in MATCH_LOSS_MAP if MATCH_LOSS_MAP.row(name).layers == layers]
        raise UsageError(
            f"{field} {shown(name)} compares {takes} layers of each model, but this match has "
            f"{layers}: use one of {', '.join(one)}."
        )


def require_schedule(field: str, spec: object, *, named: bool = True) -> None:
    """Raises :class:`UsageError` unless ``spec`` is a :data:`ScheduleSpec`.

    Args:
        field: The name to blame.
        spec: The schedule.
        named: Whether a name alone, or ``"none"``, stands for one.
    """
    if callable(spec):
        row, name = WEIGHT_SCHEDULER.row(spec), getattr(spec, "__name__", repr(spec))
        _require_parameters(f"{field} {shown(name)}", row, {})
    elif isinstance(spec, Mapping):
        parameters = dict(spec)
        name = parameters.pop("schedule", None)
        if not isinstance(name, str):
            raise UsageError(
                f"{field} {shown(dict(spec))} needs the key 'schedule', a name of optax."
            )
        if name in WEIGHT_SCHEDULER:
            _require_parameters(f"{field} {shown(name)}", WEIGHT_SCHEDULER.row(name), parameters)
    elif named:
        require_row(field, spec, ["none", *WEIGHT_SCHEDULER])
        if spec in WEIGHT_SCHEDULER:
            _require_parameters(f"{field} {shown(spec)}", WEIGHT_SCHEDULER.row(spec), {})
    else:
        raise UsageError(f"{field} must be a positive number or a schedule, got {shown(spec)}.")


def require_temperature_rule(field: str, spec: object) -> None:
    """Raises :class:`UsageError` unless ``spec`` is a :data:`TemperatureSpec`."""
    if callable(spec):
        return
    name, *given = spec if isinstance(spec, tuple) and spec else (spec,)
    require_row(field, name, ["none", *TEMPERATURE_SCHEDULER])
    if name == "none":
        return
    named = given.pop() if given and isinstance(given[-1], Mapping) else {}
    required = TEMPERATURE_SCHEDULER.row(name).required[len(given) :]
    missing = [parameter for parameter in required if parameter not in named]
    if missing:
        needs = " and ".join(map(repr, missing))
        raise UsageError(f"{field} {shown(name)} needs {needs}, got {shown(plain(spec))}.")


def require_projection(match: Config) -> None:
    """Raises :class:`UsageError` unless ``match.proj`` is ``None`` or a projection written out."""
    field, proj = f"{type(match).__name__}.proj", match.proj  # type: ignore[attr-defined]
    if proj is None:
        return
    allowed = "[activation, student width, teacher width] and optionally a dict of settings"
    match.require("proj", isinstance(proj, tuple) and len(proj) in (3, 4), allowed)
    require_row(f"{field}[0]", proj[0], PROJ_MAP)
    match.require("proj", all(is_int(width) and width > 0 for width in proj[1:3]), allowed)
    if len(proj) == 4 and not isinstance(proj[3], Mapping):
        raise UsageError(f"{field}[3] must be a dict of settings, got {shown(plain(proj[3]))}.")


def _require_parameters(subject: str, row: Row, parameters: Mapping[str, Any]) -> None:
    for parameter in parameters:
        if row.parameters is not None and parameter not in row.parameters:
            known = suggest(parameter, row.parameters) if row.parameters else "it takes none."
            raise UsageError(f"{subject} has no parameter {shown(parameter)}: {known}")
    missing = [parameter for parameter in row.required if parameter not in parameters]
    if missing:
        raise UsageError(f"{subject} needs {' and '.join(map(repr, missing))}.")
