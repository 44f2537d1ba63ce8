"""Matches of inner states as terms: which layers or modules, their projections, and the loss."""

import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..configs import CustomMatch, EMDMatch, IntermediateMatch
from ..configs.module_paths import split_module_path
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import Mean
from ..registry import PROJ_MAP
from .loss_calls import BoundLoss
from .optimal_transport import LAYER_WEIGHTS, Transport, equal_weights, transport_loss
from .projections import apply_projection
from .value_checks import Checks, probabilities

Projection = dict[str, jax.Array]


def match_terms(
    key: str,
    name: str,
    match: IntermediateMatch | EMDMatch | CustomMatch,
    loss: BoundLoss,
    student: Outputs,
    teachers: tuple[Outputs, ...],
    projection: Projection | None,
    weights: dict[str, jax.Array] | None,
) -> dict[str, tuple[Mean, ...]]:
    """The terms of one match: its loss and, for a transport match, the costs of the layers.

    Args:
        key: The key of the match's projection, for messages.
        name: The name of the term.
        match: The match, resolved.
        loss: ``loss(state_S, state_T, mask=) -> Mean``, and its row.
        student: Outputs of the student.
        teachers: Outputs of each teacher.
        projection: Parameters of the match's projection, if it has one.
        weights: Layer weights of a transport match; ``None`` for equal ones.

    Raises:
        UsageError: A layer, a module or a mask is missing or does not fit.
    """
    if match.teacher >= len(teachers):
        raise UsageError(
            f"{match.name}: there is no teacher {match.teacher} among {len(teachers)}."
        )
    teacher = teachers[match.teacher]
    checks = _checks_of_scores(match, loss, student, teacher)
    if isinstance(match, EMDMatch):
        moved = _transported(match, loss, student, teacher, projection, weights)
        costs = zip(LAYER_WEIGHTS, (moved.cost_S, moved.cost_T), strict=True)
        return {name: (moved.loss,), **{f"{name}/{who}": (cost,) for who, cost in costs}, **checks}
    if isinstance(match, CustomMatch):
        return {name: (_of_modules(match, loss, student, teacher, projection),), **checks}
    return {name: (_of_layers(key, match, loss, student, teacher, projection),), **checks}


def _checks_of_scores(
    match: IntermediateMatch | EMDMatch | CustomMatch,
    loss: BoundLoss,
    student: Outputs,
    teacher: Outputs,
) -> Checks:
    """For a loss between attention scores: whether it gets probabilities instead."""
    checks: Checks = {}
    if not loss.row.scores:
        return checks
    if isinstance(match, CustomMatch):
        checks |= probabilities(f"{match.module_S} of the student", student.modules[match.module_S])
        return checks | probabilities(
            f"{match.module_T} of the teacher", teacher.modules[match.module_T]
        )
    for who, outputs, layers in (
        ("student", student, match.layer_S),
        ("teacher", teacher, match.layer_T),
    ):
        for layer in layers if isinstance(layers, tuple) else (layers,):
            (state,) = _layers(match.name, who, outputs, match.feature, layer)
            checks |= probabilities(f"{match.feature}[{layer}] of the {who}", state)
    return checks


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
    mask = _mask_of(state_S[0], _inputs_mask(student, teacher))
    return _compared(where, loss, *arguments, mask=mask)


def _mask_of(state: jax.Array, mask: jax.Array | None) -> jax.Array | None:
    """The mask of a feature: that of the tokens, or which examples of vectors have any token."""
    if mask is None or state.ndim != 2 or mask.ndim != 2:
        return mask
    return jnp.any(mask != 0, axis=1)


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
    mask, given = _mask_of_modules(match, student, teacher)
    state_S, state_T = _with_positions(state_S, state_T, mask)
    state_S = _projected(match.name, match, projection, state_S)
    if mask is not None and not _covers(mask, state_S):
        if given is not None:
            raise UsageError(
                f"{match.name}: modules_mask[{given!r}] {mask.shape} does not fit what "
                f"{match.module_S!r} returns, {state_S.shape}: its axes must be the first of that."
            )
        if state_S.ndim > 2 or (state_S.ndim == 2 and state_S.shape[0] != mask.shape[0]):
            raise UsageError(
                f"{match.name}: inputs_mask {mask.shape} does not cover the positions of what "
                f"{match.module_S!r} returns, {state_S.shape}: return their mask in the adaptor's "
                f"'modules_mask', {{{match.module_S!r}: mask}}, or None in its place if all count."
            )
        mask = None  # one vector per example, or none at all
    return _compared(match.name, loss, state_S, state_T, mask=mask)


def _mask_of_modules(
    match: CustomMatch, student: Outputs, teacher: Outputs
) -> tuple[jax.Array | None, str | None]:
    """The mask of a match, and its key in ``modules_mask`` if it stands there.

    The student's adaptor comes first. A key is a path, with or without its steps, or a glob.
    """
    for address, outputs in ((match.module_S, student), (match.module_T, teacher)):
        path = split_module_path(address)[0]
        for key, mask in outputs.modules_mask.items():
            if key in (address, path) or fnmatch.fnmatchcase(path, key):
                return mask, key
    return _inputs_mask(student, teacher), None


def _with_positions(
    state_S: jax.Array, state_T: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Tokens that lie end to end, ``[batch * length, width]``, in rows, where these are known.

    They are those of the other model's state, or of ``mask``.
    """
    rows = [state.shape[:2] for state in (state_S, state_T) if state.ndim == 3]
    if mask is not None and mask.ndim == 2:
        rows.append(mask.shape)
    if not rows:
        return state_S, state_T
    batch, length = rows[0]
    state_S, state_T = (
        state.reshape(batch, length, -1)
        if state.ndim == 2 and state.shape[0] == batch * length
        else state
        for state in (state_S, state_T)
    )
    return state_S, state_T


def _covers(mask: jax.Array, state: jax.Array) -> bool:
    """Whether a mask's positions are the state's, or those of its attention scores."""
    if state.shape[: mask.ndim] == mask.shape:
        return True
    keys = (mask.shape[1],) * 2 if mask.ndim == 2 else ()
    return state.ndim == 4 and (state.shape[0], *state.shape[2:]) == (mask.shape[0], *keys)


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
