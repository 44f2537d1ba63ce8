"""The teacher's logits as they are compared: shifted, and paired with the student's positions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped

from ..errors import UsageError
from ..losses import LogitsOf, selected


def probability_shift(
    logits_T: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    mask: Shaped[Array, "*batch"] | None = None,
) -> Float[Array, "*batch classes"]:
    """Corrects the teacher: swaps its largest logit with that of the label.

    Args:
        logits_T: Teacher's logits, ``(batch, classes)`` or ``(batch, length, classes)``. Of
            several largest ones the first is swapped.
        labels: The right classes, of the shape of the logits without the classes. A label that
            is no class (negative, such as -100, or too large), or one that the teacher rules out
            with ``-inf``, leaves its row alone.
        mask: Rows where it is 0 are left alone too.

    Returns:
        New logits; the given ones are not changed.

    Raises:
        UsageError: The labels have another shape or are not integers.

    Examples:
        >>> print(probability_shift(jnp.array([[3.0, 1.0], [3.0, 1.0]]), jnp.array([1, -100])))
        [[1. 3.]
         [3. 1.]]

    References:
        Wen et al., Preparing lessons: improve knowledge distillation with better supervision,
        2019, https://arxiv.org/abs/1911.07471
    """
    if labels.shape != logits_T.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UsageError(
            f"probability_shift: integer labels of the shape {logits_T.shape[:-1]} are needed for "
            f"logits {logits_T.shape}, got {labels.dtype} {labels.shape}."
        )
    classes = logits_T.shape[-1]
    largest = jnp.argmax(logits_T, axis=-1)
    shifts = (labels >= 0) & (labels < classes)
    if mask is not None:
        shifts = shifts & selected(mask)
    label = jnp.where(shifts, labels, largest)[..., None]
    row = jax.lax.broadcasted_iota(label.dtype, logits_T.shape, logits_T.ndim - 1)
    at_largest = jnp.take_along_axis(logits_T, largest[..., None], axis=-1)
    at_label = jnp.take_along_axis(logits_T, label, axis=-1)
    swapped = jnp.where(row == largest[..., None], at_label, logits_T)
    shifted = jnp.where(row == label, at_largest, swapped)
    return jnp.where(jnp.isneginf(at_label), logits_T, shifted)


def pair_selected(
    teacher: Float[Array, "*positions classes"],
    mask_S: Shaped[Array, "*other"] | None,
    mask_T: Shaped[Array, "*positions"] | None,
    *,
    pairing: str = "auto",
) -> tuple[Float[Array, "..."], Shaped[Array, "..."] | None]:
    """Brings the teacher's logits to the positions of the student's they are compared with.

    Masks of one shape are compared position by position: a position counts where both select it.
    Masks of different shapes pair by rank, as TextBrewer does: the k-th position that ``mask_S``
    selects in an example is compared with the k-th that ``mask_T`` selects in it. Both must then
    select equally many (:func:`~jaxbrewer.objective.value_checks.unequal_counts` checks it); those
    that have no partner do not count. Shift and temperature come after this, with the student's
    labels and the mask returned.

    Args:
        teacher: Teacher's logits, ``[batch, length, classes]``, or with more axes of positions,
            such as ``[batch, height, width, classes]``. Logits ``[batch, classes]`` are not
            selected: they come back as they are, without a mask.
        mask_S: Student's mask, ``[batch, length]``; every value but 0 selects a position.
        mask_T: Teacher's mask, whose length may be another. If only one model has a mask it
            serves both.
        pairing: ``"auto"`` as above; ``"rank"`` pairs masks of one shape by rank too.

    Returns:
        The teacher's logits in the student's places, and the mask of the positions to compare.

    Raises:
        UsageError: A mask does not fit the logits.

    Examples:
        >>> teacher = jnp.array([[[1.0], [2.0], [3.0]]])
        >>> mask_S, mask_T = jnp.array([[1, 1, 0]]), jnp.array([[0, 1, 1]])
        >>> paired, mask = pair_selected(teacher, mask_S, mask_T)
        >>> print(paired[mask])
        [[2.]]
        >>> paired, mask = pair_selected(teacher, mask_S, mask_T, pairing="rank")
        >>> print(paired[mask])
        [[2.]
         [3.]]
    """
    if teacher.ndim < 3:
        return teacher, None
    mask_S, mask_T = (mask_T if mask_S is None else mask_S), (mask_S if mask_T is None else mask_T)
    if mask_S is None or mask_T is None:
        return teacher, None
    if mask_T.shape != teacher.shape[:-1] or mask_S.ndim != mask_T.ndim:
        raise UsageError(
            f"logits_mask {mask_T.shape} does not fit the teacher's logits {teacher.shape}: both "
            "adaptors must return one when the lengths differ."
        )
    if mask_S is mask_T:
        return teacher, mask_S
    if pairs_by_rank(mask_S, mask_T, pairing):
        return _pair_by_rank(teacher, mask_S, mask_T)
    return teacher, selected(mask_S) & selected(mask_T)


def pair_logits(
    teacher: Any,
    mask_S: Shaped[Array, "*other"] | None,
    mask_T: Shaped[Array, "*positions"] | None,
    *,
    pairing: str = "auto",
) -> tuple[Any, Shaped[Array, "..."] | None]:
    """As :func:`pair_selected`, for a teacher's logits in any form.

    The rows of a :class:`~jaxbrewer.LogitsOf` are its hidden states, those of a
    :class:`~jaxbrewer.TopK` all of its arrays.
    """
    if isinstance(teacher, LogitsOf):
        hidden, mask = pair_selected(teacher.hidden, mask_S, mask_T, pairing=pairing)
        return dataclasses.replace(teacher, hidden=hidden), mask
    leaves, structure = jax.tree.flatten(teacher)
    pairs = [pair_selected(leaf, mask_S, mask_T, pairing=pairing) for leaf in leaves]
    return jax.tree.unflatten(structure, [leaf for leaf, _ in pairs]), pairs[0][1]


def pairs_by_rank(
    mask_S: Shaped[Array, "*other"] | None,
    mask_T: Shaped[Array, "*positions"] | None,
    pairing: str,
) -> bool:
    """Whether :func:`pair_selected` pairs the k-th selected positions of the two masks."""
    if mask_S is None or mask_T is None or mask_S is mask_T:
        return False
    return pairing == "rank" or mask_S.shape != mask_T.shape


def _pair_by_rank(teacher: Array, mask_S: Array, mask_T: Array) -> tuple[Array, Array]:
    if mask_S.shape[0] != mask_T.shape[0]:
        raise UsageError(
            f"logits_mask {mask_S.shape} of the student and {mask_T.shape} of the teacher differ "
            "in the number of examples."
        )
    batch, classes = teacher.shape[0], teacher.shape[-1]
    to_S, from_T = (selected(mask).reshape(batch, -1) for mask in (mask_S, mask_T))
    selected_T = jnp.argsort(~from_T, axis=1, stable=True)  # the k-th position that it selects
    k = jnp.cumsum(to_S, axis=1) - 1
    partner = jnp.take_along_axis(selected_T, jnp.clip(k, 0, from_T.shape[1] - 1), axis=1)
    flat = teacher.reshape(batch, -1, classes)
    paired = jnp.take_along_axis(flat, partner[..., None], axis=1)
    compared = to_S & (k < jnp.sum(from_T, axis=1, keepdims=True))
    return paired.reshape(*mask_S.shape, classes), compared.reshape(mask_S.shape)
