"""Matches of inner states as terms: which layers or modules, their projections, and the loss."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ..configs import CustomMatch, EMDMatch, IntermediateMatch
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import Mean
from ..registry import PROJ_MAP
from .optimal_transport import LAYER_WEIGHTS, Transport, equal_weights, transport_loss
from .projections import apply_projection

Projection = dict[str, jax.Array]


def match_terms(
    key: str,
    name: str,
    match: IntermediateMatch | EMDMatch | CustomMatch,
    loss: Callable[..., Mean],
    student: Outputs,
    teachers: tuple[Outputs, ...],
    projection: Projection | None,
    weights: dict[str, jax.Array] | None,
) -> dict[str, tuple[Mean, ...]]:
    """The terms of one match: its loss and, for a transport match, the costs of the layers.

    Args:
        key: The match's place, under which its projection is kept.
        name: Of the term.
        match: Written out.
        loss: ``loss(state_S, state_T, mask=) -> Mean``.
        student: The student's outputs.
        teachers: Those of all teachers.
        projection: Its parameters, if it has one.
        weights: The layers' weights of a transport match; ``None`` for equal ones.

    Raises:
        UsageError: Something it needs is missing or does not fit.
    """
    if match.teacher >= len(teachers):
        raise UsageError(
            f"{match.name}: there is no teacher {match.teacher} among {len(teachers)}."
        )
    teacher = teachers[match.teacher]
    if isinstance(match, EMDMatch):
        moved = _transported(match, loss, student, teacher, projection, weights)
        costs = zip(LAYER_WEIGHTS, (moved.cost_S, moved.cost_T), strict=True)
        return {name: (moved.loss,), **{f"{name}/{who}": (cost,) for who, cost in costs}}
    if isinstance(match, CustomMatch):
        return {name: (_of_modules(match, loss, student, teacher, projection),)}
    return {name: (_of_layers(key, match, loss, student, teacher, projection),)}


def _of_layers(
    key: str,
    match: IntermediateMatch,
    loss: Callable[..., Mean],
    student: Outputs,
    teacher: Outputs,
    projection: Projection | None,
) -> Mean:
    where = f"intermediate_matches[{key}] ({match.name})"
    state_S = _layers(where, "student", student, match.feature, match.layer_S)
    state_T = _layers(where, "teacher", teacher, match.feature, match.layer_T)
    state_S = [_projected(where, match, projection, x) for x in state_S]
    pair = isinstance(match.layer_S, tuple)
    arguments = (state_S, state_T) if pair else (state_S[0], state_T[0])
    return _compared(where, loss, *arguments, mask=_inputs_mask(student, teacher))


def _transported(
    match: EMDMatch,
    loss: Callable[..., Mean],
    student: Outputs,
    teacher: Outputs,
    projection: Projection | None,
    weights: dict[str, jax.Array] | None,
) -> Transport:
    state_S = _layers(match.name, "student", student, match.feature, match.layer_S)
    state_T = _layers(match.name, "teacher", teacher, match.feature, match.layer_T)
    if projection is not None:
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], projection) for i in range(len(state_S))]
        state_S = [
            _projected(match.name, match, own, x) for own, x in zip(each, state_S, strict=True)
        ]
    if weights is None:
        weights = equal_weights(len(state_S), len(state_T))
    return _compared(
        match.name,
        transport_loss,
        state_S,
        state_T,
        functools.partial(loss, mask=_inputs_mask(student, teacher)),
        *(weights[who] for who in LAYER_WEIGHTS),
        epsilon=match.epsilon,
        iterations=match.iterations,
    )


def _of_modules(
    match: CustomMatch,
    loss: Callable[..., Mean],
    student: Outputs,
    teacher: Outputs,
    projection: Projection | None,
) -> Mean:
    state_S, state_T = student.modules[match.module_S], teacher.modules[match.module_T]
    if callable(match.proj):
        state_S = match.proj(state_S)
    state_S = _projected(match.name, match, projection, state_S)
    mask = _inputs_mask(student, teacher)
    if mask is not None and state_S.shape[: mask.ndim] != mask.shape:
        # Tokens laid end to end, or no tokens at all.
        mask = mask.reshape(-1) if state_S.shape[:1] == (mask.size,) else None
    return _compared(match.name, loss, state_S, state_T, mask=mask)


def _compared(where: str, loss: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return loss(*arguments, **keywords)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _inputs_mask(student: Outputs, teacher: Outputs) -> jax.Array | None:
    return student.inputs_mask if student.inputs_mask is not None else teacher.inputs_mask


def _projected(where: str, match: Any, projection: Projection | None, state: Any) -> jax.Array:
    if projection is None:
        return state
    activation, width = PROJ_MAP[match.proj[0]], match.proj[1]
    if state.shape[-1] != width:
        raise UsageError(
            f"{where}: proj expects a student width of {width}, but the student's state has the "
            f"shape {state.shape}."
        )
    return apply_projection(projection, state, activation)


def _layers(where: str, who: str, outputs: Outputs, feature: str, layers: Any) -> list[jax.Array]:
    found = outputs.features.get(feature, ())
    if not found:
        raise UsageError(f"{where} needs {feature!r}, which the {who}'s adaptor does not return.")
    indices = layers if isinstance(layers, tuple) else (layers,)
    chosen = []
    for layer in indices:
        if not -len(found) <= layer < len(found):
            raise UsageError(
                f"{where}: layer_{who[0].upper()}={layer} is out of range: the {who}'s adaptor "
                f"returned {len(found)} layers of {feature!r}."
            )
        array = found[layer]
        if array is None:
            raise UsageError(f"{where}: layer {layer} of {feature!r} was not kept in the cache.")
        chosen.append(array)
    return chosen
