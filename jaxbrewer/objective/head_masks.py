"""Which mask and which weights apply to each head of logits, and what they select in it."""

import functools
import operator
import warnings
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import loss_dtype, selected
from .logit_masks import pair_selected, pairs_by_rank


def per_head(who: str, key: str, given: tuple[Array, ...], heads: int) -> tuple[Array | None, ...]:
    """An array for each of ``heads``: the one for all, or its own; ``None`` where there are none.

    Args:
        who: ``"student"`` or ``"teacher"``, for messages.
        key: ``"logits_mask"`` or ``"logits_weights"``, for messages.
        given: What the adaptor returned.
        heads: How many heads there are.

    Raises:
        UsageError: The numbers of arrays and heads differ.
    """
    if not given:
        return (None,) * heads
    if len(given) == 1:
        return given * heads
    if len(given) != heads:
        raise UsageError(
            f"The {who}'s adaptor returned {len(given)} {key!r} for {heads} heads: give one per "
            "head, or one for all."
        )
    return given


def masks_of_heads(student: Outputs, teacher: Outputs) -> list[tuple[Array | None, Array | None]]:
    """The student's and the teacher's mask of each head, ``None`` where none applies.

    Heads with positions, ``[batch, length, classes]``: ``logits_mask``, or ``inputs_mask`` where
    the model's adaptor returns no ``logits_mask``. Heads ``[batch, classes]``: a ``logits_mask`` of
    the shape ``[batch]`` selects examples, one of the shape ``[batch, classes]`` selects classes,
    which are the positions of a span. A ``logits_mask`` for heads of both kinds is that of the
    heads with positions.

    Raises:
        UsageError: A mask is given that no head can use.
    """
    heads, masks = len(student.logits), []
    models = (("student", student), ("teacher", teacher))
    given = [per_head(who, "logits_mask", outputs.logits_mask, heads) for who, outputs in models]
    if not (student.logits_mask or teacher.logits_mask):
        _warn_of_spans(student, teacher)
    for head in range(heads):
        pair = tuple(
            _mask_of_head(who, outputs, head, own[head])
            for (who, outputs), own in zip(models, given, strict=True)
        )
        logits, inputs = student.logits[head], (student.inputs_mask, teacher.inputs_mask)
        unused = next((mask for mask in inputs if mask is not None), None)
        if logits.ndim > 2 and all(mask is None for mask in pair) and unused is not None:
            raise UsageError(
                f"inputs_mask {unused.shape} does not cover the positions of logits[{head}] "
                f"{logits.shape}: return 'logits_mask' as well, of ones if all positions count."
            )
        masks.append((pair[0], pair[1]))
    return masks


def weights_of_head(
    student: Outputs,
    teacher: Outputs,
    head: int,
    masks: tuple[Array | None, Array | None],
    pairing: str,
) -> Array | None:
    """``logits_weights`` of a head in the student's positions: the student's, else the teacher's.

    Args:
        student: Student's outputs.
        teacher: Teacher's outputs.
        head: Which head.
        masks: From :func:`masks_of_heads`.
        pairing: As for :func:`pair_selected`.

    Raises:
        UsageError: They do not have the shape of the head's positions.
    """
    heads = len(student.logits)
    for who, outputs in (("student", student), ("teacher", teacher)):
        logits = outputs.logits[head]
        weights = per_head(who, "logits_weights", outputs.logits_weights, heads)[head]
        if weights is None:
            continue
        if weights.shape != logits.shape[:-1]:
            if logits.ndim == 2 and _has_positions(outputs):
                continue  # they are for the other heads
            raise UsageError(
                f"The {who}'s logits_weights {weights.shape} do not fit logits[{head}] "
                f"{logits.shape}: {logits.shape[:-1]} is needed."
            )
        weights = jnp.asarray(weights, loss_dtype(weights))
        if who == "teacher" and pairs_by_rank(*masks, pairing):
            paired, _ = pair_selected(weights[..., None], *masks, pairing=pairing)
            return paired[..., 0]
        return weights
    return None


def select_classes(
    what: str,
    logits_S: Float[Array, "*batch classes"],
    logits_T: Any,
    masks: tuple[Array | None, Array | None],
) -> tuple[Float[Array, "*batch classes"], Any, Shaped[Array, " batch"] | None]:
    """Logits ``[batch, classes]`` of which masks select examples, classes or both.

    Args:
        what: Names the logits in messages.
        logits_S: Student's logits.
        logits_T: Teacher's logits.
        masks: Student's and teacher's, each ``[batch]``, ``[batch, classes]`` or ``None``.

    Returns:
        Both logits, with ``-inf`` for classes that are not selected, and the mask of the examples:
        those that are selected and have a class.

    Raises:
        UsageError: Classes are selected of logits that only hold the teacher's largest.

    Examples:
        >>> logits, mask = jnp.array([[1.0, 2.0]]), jnp.array([[1, 0]])
        >>> print(select_classes("logits", logits, logits, (mask, None))[0])
        [[  1. -inf]]
    """
    examples, classes = mask_of_examples(masks), _of_rank(masks, 2)
    if classes is None:
        return logits_S, logits_T, examples
    if not hasattr(logits_T, "dtype"):
        raise UsageError(
            f"{what}: a logits_mask that selects classes needs all of the teacher's logits, but "
            "only the largest are cached."
        )
    logits_S, logits_T = (
        jnp.where(classes, logits, jnp.asarray(-jnp.inf, logits.dtype))
        for logits in (logits_S, logits_T)
    )
    some = jnp.any(classes, axis=1)  # a softmax over no class would be NaN
    return logits_S, logits_T, some if examples is None else some & examples


def classes_as_positions(
    logits_S: Float[Array, "*batch classes"],
    logits_T: Float[Array, "*batch classes"],
    masks: tuple[Array | None, Array | None],
    mask: Array | None,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Shaped[Array, "..."] | None]:
    """The same for a loss that is a mean over classes: those not selected do not count in it.

    Each class becomes a position with one class, ``[batch, classes, 1]``, where ``masks`` select
    classes; else nothing changes. ``mask`` is from :func:`select_classes`.
    """
    classes = _of_rank(masks, 2)
    if classes is None or mask is None:
        return logits_S, logits_T, mask
    return logits_S[..., None], logits_T[..., None], classes & mask[:, None]


def selects_classes(masks: tuple[Array | None, Array | None]) -> bool:
    """Whether masks of logits ``[batch, classes]`` select classes."""
    return any(mask is not None and mask.ndim == 2 for mask in masks)


def mask_of_examples(masks: tuple[Array | None, Array | None]) -> Array | None:
    """The examples that masks of logits ``[batch, classes]`` select; ``None`` for all."""
    return _of_rank(masks, 1)


def _of_rank(masks: tuple[Array | None, Array | None], ndim: int) -> Array | None:
    """What both masks of ``ndim`` axes select."""
    own = [selected(mask) for mask in masks if mask is not None and mask.ndim == ndim]
    return functools.reduce(operator.and_, own) if own else None


def _mask_of_head(who: str, outputs: Outputs, head: int, mask: Array | None) -> Array | None:
    logits, inputs_mask = outputs.logits[head], outputs.inputs_mask
    if logits.ndim > 2:
        fits = inputs_mask is not None and inputs_mask.shape == logits.shape[:-1]
        return inputs_mask if mask is None and fits else mask
    if mask is None or mask.shape == logits.shape[:1]:
        return mask
    if mask.shape == logits.shape and not (
        _has_positions(outputs) and len(outputs.logits_mask) == 1
    ):
        return mask
    if _has_positions(outputs):
        return None
    raise UsageError(
        f"The {who}'s logits_mask {mask.shape} does not fit logits[{head}] {logits.shape}: "
        f"{logits.shape[:1]} selects examples, {logits.shape} the classes, such as the positions "
        "of a span."
    )


def _has_positions(outputs: Outputs) -> bool:
    return any(logits.ndim > 2 for logits in outputs.logits)


def _warn_of_spans(student: Outputs, teacher: Outputs) -> None:
    for outputs in (student, teacher):
        mask, shapes = outputs.inputs_mask, [logits.shape for logits in outputs.logits]
        if mask is not None and len(shapes) > 1 and all(shape == mask.shape for shape in shapes):
            warnings.warn(
                f"All heads have logits {shapes[0]}, as many classes as inputs_mask has positions. "
                "If these are scores of positions, as of spans, return 'logits_mask' as well: "
                "padding counts as a class.",
                stacklevel=2,
            )
