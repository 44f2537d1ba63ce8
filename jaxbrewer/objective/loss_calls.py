"""Calls losses in one way: as a sum and a count, after the checks that their rows state."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UsageError
from ..losses import Mean, per_position
from ..registry import KD_LOSS_MAP, KDLossRow, MatchLossRow, Table, loss_and_parameters
from .ensemble import Weight
from .schedules import first_line

LossCall = Callable[..., Mean]
"""``loss(student, teacher, [temperature], *, mask, labels=None) -> Mean``."""


@dataclasses.dataclass(frozen=True)
class BoundLoss:
    """A :data:`LossCall` with the parameters of its config, and its row.

    Attributes:
        row: What the registry knows of the loss.
        call: The loss.
    """

    row: Any
    call: LossCall

    def __call__(self, *args: Any, **keywords: Any) -> Mean:
        """The loss as a sum and a count."""
        return self.call(*args, **keywords)


def as_sum_and_count(table: Table[Any], spec: Any) -> BoundLoss:
    """The loss that a config names, or a function, as a sum and a count.

    A function that returns a scalar counts once per micro-batch.

    Args:
        table: ``KD_LOSS_MAP`` or ``MATCH_LOSS_MAP``.
        spec: A name, ``{"loss": name, **parameters}``, or a function.

    Raises:
        UsageError: By the function that is returned: the loss needs what it is not given, or its
            row does not allow the states.
    """
    parameters: dict[str, Any] = {}
    if callable(spec):
        name, loss = getattr(spec, "__name__", repr(spec)), spec
    else:
        name, parameters = loss_and_parameters(spec)
        loss = table[name]
    row, function = table.row(spec), sum_and_count_of(loss)
    takes = inspect.signature(function).parameters

    def call(*args: Any, mask: jax.Array | None, labels: jax.Array | None = None) -> Mean:
        if isinstance(row, MatchLossRow):
            _require_states(name, row, args[0], args[1])
        given = dict(parameters)
        if "mask" in takes:
            given["mask"] = mask
        elif mask is not None:
            raise UsageError(f"The loss {name!r} takes no 'mask', but the adaptor returned one.")
        if "labels" in takes:
            if labels is None:
                raise UsageError(f"The loss {name!r} needs 'labels' from an adaptor for each head.")
            given["labels"] = labels
        try:
            value = function(*args, **given)
        except UsageError:
            raise
        except (TypeError, ValueError) as error:
            shapes = [[tuple(x.shape) for x in _as_list(states)] for states in args[:2]]
            if shapes[0] == shapes[1]:
                raise  # no question of shapes
            raise UsageError(_fails_on(name, row, shapes[0], shapes[1], error)) from error
        if isinstance(value, Mean):
            return value
        value = jnp.asarray(value)
        if value.shape != ():
            raise UsageError(
                f"The loss {name!r} must return a scalar or a Mean, got shape {value.shape}."
            )
        return Mean(value, jnp.ones((), value.dtype))

    return BoundLoss(row, call)


def _fails_on(name: str, row: Any, student: list[Any], teacher: list[Any], error: Any) -> str:
    """The message for states that a user's loss cannot compare."""
    shapes = (", ".join(map(str, side)) for side in (student, teacher))
    (*_, ours), (*_, theirs) = student[0], teacher[0]
    remedy = ""
    if isinstance(row, MatchLossRow) and not row.scores and ours != theirs:
        remedy = f' Give the match a projection, "proj": ["linear", {ours}, {theirs}].'
    return (
        f"The loss {name!r} cannot compare student {' and teacher '.join(shapes)}: "
        f"{first_line(error).rstrip('.')}.{remedy}"
    )


def sum_and_count_of(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The form of a loss that returns a :class:`Mean` if it has one, else the loss itself."""
    if isinstance(loss, functools.partial):
        return functools.partial(sum_and_count_of(loss.func), *loss.args, **loss.keywords)
    return getattr(loss, "sum_and_count", loss)


def combined_weights(weight: Weight | None, positions: jax.Array | None) -> Weight | None:
    """The product of a teacher's weight and of those of positions; ``None`` stands for 1."""
    if positions is None:
        return weight
    return positions if weight is None else positions * per_position(weight, positions)


def weighted(
    loss: LossCall,
    weight: Weight | None,
    row: KDLossRow,
    *,
    positions: jax.Array | None = None,
) -> LossCall:
    """The loss with a weight for all, per example or per position, in place of the mask's ones.

    The mean is ``sum(weight * loss) / sum(weight)`` over what the mask selects.

    Args:
        loss: The loss.
        weight: The teacher's: a scalar, ``[batch]``, or ``None`` for 1.
        row: What is known of the loss.
        positions: Of the positions, the shape of the logits without their classes.

    Raises:
        UsageError: The loss compares examples with each other, so that none has a loss of its own.
    """
    weight = combined_weights(weight, positions)
    if weight is None:
        return loss
    if jnp.ndim(weight) and not row.splits:
        raise UsageError(
            "Weights per example or position ('teacher_id', 'teacher_weights', 'logits_weights') "
            "need a loss for each of them, but this kd_loss_type compares examples with each other "
            "(splits=False)."
        )

    def call(*args: Any, mask: jax.Array | None, labels: jax.Array | None) -> Mean:
        # Zeros at a weight of 0, because a NaN there would survive a product with 0.
        asked = (jnp.where(per_position(weight, x) != 0, x, 0) for x in args[:2])
        args = (*asked, *args[2:])
        if jnp.ndim(weight) == 0:
            mean = loss(*args, mask=mask, labels=labels)
            return Mean(mean.total * weight, mean.count * weight)

        def of_one(*example: Any) -> Mean:  # as a batch of one
            *rest, mask, labels = (
                x if axis is None else x[None] for x, axis in zip(example, axes, strict=True)
            )
            return loss(*rest, mask=mask, labels=labels)

        arrays = tuple(_end_to_end(x, jnp.shape(weight)) for x in (*args, mask, labels))
        weights = jnp.reshape(weight, -1)
        axes = tuple(None if x is None or jnp.ndim(x) == 0 else 0 for x in arrays)
        each = jax.vmap(of_one, in_axes=axes)(*arrays)
        return Mean(*(jnp.sum(jnp.where(weights != 0, weights * part, 0)) for part in each))

    return call


def _end_to_end(x: Any, positions: tuple[int, ...]) -> Any:
    """An array with all positions in one axis; one per example is repeated for its positions."""
    if x is None or jnp.ndim(x) == 0 or len(positions) == 1:
        return x
    if x.ndim < len(positions):
        x = jnp.broadcast_to(x.reshape(x.shape + (1,) * (len(positions) - x.ndim)), positions)
    return x.reshape(-1, *x.shape[len(positions) :])


def require_classes(what: str, name: str, row: KDLossRow, logits: Any) -> None:
    """Raises :class:`UsageError` unless logits have the classes that a loss compares.

    Args:
        what: Names the logits.
        name: The loss.
        row: Its row.
        logits: One model's, ``[*batch, classes]``.
    """
    single = " or ".join(repr(n) for n in KD_LOSS_MAP if KD_LOSS_MAP.row(n).least_classes == 1)
    if logits.ndim < 2:
        raise UsageError(
            f"{what} {logits.shape} have no axis of classes: the adaptor must return "
            f"[batch, classes], for one score per example [batch, 1] with kd_loss_type {single}."
        )
    least = row.least_classes
    if logits.shape[-1] < least:
        raise UsageError(
            f"{what} {logits.shape} have {logits.shape[-1]} class, but kd_loss_type {name!r} "
            f"compares distributions over {least} or more: for one score use {single}."
        )


def _require_states(name: str, row: MatchLossRow, student: Any, teacher: Any) -> None:
    for x_S, x_T in zip(_as_list(student), _as_list(teacher), strict=False):
        for who, x in (("student", x_S), ("teacher", x_T)):
            if row.ranks is not None and x.ndim not in row.ranks:
                raise UsageError(
                    f"{name} compares states of {_listed(row.ranks)} axes, but the {who}'s state "
                    f"has the shape {x.shape}."
                )
        (*_, ours), (*_, theirs) = ((1, *x.shape) for x in (x_S, x_T))
        if row.equal_widths and not row.scores and ours != theirs:
            raise UsageError(
                f"{name}: student {x_S.shape} and teacher {x_T.shape} differ in width ({ours} and "
                f'{theirs}): give the match a projection, "proj": ["linear", {ours}, {theirs}] '
                "(a loss that compares any widths is registered with equal_widths=False)."
            )


def _as_list(states: Any) -> Sequence[Any]:
    return states if isinstance(states, (list, tuple)) else [states]


def _listed(numbers: tuple[int, ...]) -> str:
    """``1, 2 or 3``."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
