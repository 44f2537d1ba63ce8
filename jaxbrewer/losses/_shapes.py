"""Errors of losses on arrays of student and teacher that cannot be compared."""

from typing import Any

from ..errors import UsageError


def require_same_shape(loss: str, student: Any, teacher: Any, *axes: str) -> None:
    """Raises :class:`UsageError` unless both arrays have one and the same shape.

    Args:
        loss: The name to blame.
        student: An array.
        teacher: An array.
        *axes: What the axes mean, the last ones if there are fewer names than axes.
    """
    if student.shape == teacher.shape:
        return
    given = f"{loss}: student {student.shape} and teacher {teacher.shape}"
    if student.ndim != teacher.ndim:
        raise UsageError(f"{given} have different numbers of axes, expected {list(axes)}.")
    names = ("",) * (student.ndim - len(axes)) + axes[-student.ndim :]
    pairs = zip(names, student.shape, teacher.shape, strict=True)
    name, ours, theirs = next(pair for pair in pairs if pair[1] != pair[2])
    remedies = {
        "width": f'give the match a projection, "proj": ["linear", {ours}, {theirs}]',
        "heads": "use attention_mse_sum or attention_ce_mean, which combine the heads",
        "classes": "both models must score the same classes",
        "batch": "both models must get the same examples",
    }
    remedy = remedies.get(name, "both models must see the same positions")
    raise UsageError(f"{given} differ in {name or 'shape'} ({ours} and {theirs}): {remedy}.")


def require_mask(loss: str, mask: Any, shape: tuple[int, ...]) -> None:
    """Raises :class:`UsageError` unless ``mask`` is ``None`` or has ``shape``."""
    if mask is not None and mask.shape != shape:
        raise UsageError(f"{loss}: the mask must have the shape {shape}, got {mask.shape}.")
