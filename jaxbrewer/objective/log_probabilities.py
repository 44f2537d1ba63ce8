"""Ids and log-probabilities from an inference server -> checked candidates, on the host."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..errors import UsageError

SMALL = 1e-3
"""Rounding that log-probabilities, and sums of probabilities, may have."""

Refuse = Callable[[int, str], UsageError]
"""``(position, what is wrong) -> the error``."""


class Candidates(NamedTuple):
    """The largest candidates of some positions, as fields of a :class:`~jaxbrewer.TopK`."""

    indices: Int[np.ndarray, "positions k"]
    logits: Float[np.ndarray, "positions k"]
    log_tail: Float[np.ndarray, "positions t"]


def largest_candidates(
    ids: Int[np.ndarray, "positions m"],
    log_p: Float[np.ndarray, "positions m"],
    k: int | None,
    classes: int,
    refuse: Refuse,
) -> Candidates:
    """The ``k`` largest candidates of each position, and the logarithm of what they leave of 1.

    Args:
        ids: Candidates in any order. A candidate may be there twice with the same probability; it
            counts once.
        log_p: Their log-probabilities; a pair with ``-inf`` is padding, whatever its id.
        k: Number of candidates to keep, less than ``classes``; ``None`` for the largest number that
            a position has. Of a position with all classes, the least probable one is never kept.
        classes: Number of classes.
        refuse: Makes an error.

    Raises:
        UsageError: A log-probability is NaN or above 0, an id is not in ``range(classes)``, a
            candidate has two probabilities, or probabilities add up to more than 1.

    Examples:
        >>> ids, log_p = np.array([[7, 2, 7]]), np.log([[0.5, 0.2, 0.5]])
        >>> found = largest_candidates(ids, log_p, None, 10, lambda row, what: UsageError(what))
        >>> found.indices.tolist(), np.round(np.exp(found.log_tail), 3)
        ([[2, 7]], array([[0.3]], dtype=float32))
    """
    log_p = log_p.astype(np.float64)
    empty = np.isneginf(log_p)
    above = ~(log_p <= SMALL)
    if above.any():
        row, column = map(int, np.argwhere(above)[0])
        raise refuse(row, f"a log-probability is at most 0, got {log_p[row, column]}.")
    require_classes(ids, ~empty, classes, refuse)
    ids = np.where(empty, classes, ids)
    order = np.lexsort((-log_p, ids), axis=1)
    ids, log_p = np.take_along_axis(ids, order, 1), np.take_along_axis(log_p, order, 1)
    again = np.zeros_like(empty)
    again[:, 1:] = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] < classes)
    differs = again[:, 1:] & (log_p[:, :-1] - np.where(again[:, 1:], log_p[:, 1:], 0) > SMALL)
    if differs.any():
        row, column = map(int, np.argwhere(differs)[0])
        raise refuse(row, f"the id {ids[row, column]} has two probabilities.")
    log_p = np.where(again, -np.inf, log_p)
    p = np.exp(log_p)
    total = p.sum(1)
    if (total > 1 + SMALL).any():
        row = int(np.argmax(total > 1 + SMALL))
        raise refuse(
            row,
            f"the probabilities add up to {total[row]:.6g}, more than 1. Are they "
            "log-probabilities, not logits?",
        )
    counts = np.sum(p > 0, axis=1)
    k = min(int(counts.max(initial=0)) if k is None else k, classes - 1)
    if log_p.shape[1] < k:
        missing = ((0, 0), (0, k - log_p.shape[1]))
        ids = np.pad(ids, missing, constant_values=classes)
        log_p = np.pad(log_p, missing, constant_values=-np.inf)
    largest = np.argsort(-log_p, axis=1, kind="stable")[:, :k]
    ids, log_p = np.take_along_axis(ids, largest, 1), np.take_along_axis(log_p, largest, 1)
    ids = np.where(np.isneginf(log_p), classes, ids)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, log_p = np.take_along_axis(ids, order, 1), np.take_along_axis(log_p, order, 1)
    kept = np.exp(log_p).sum(1)
    # If all classes are there, those that are cut are all of the rest; 1 - kept would round it.
    left = np.where(counts == classes, total - kept, 1 - kept)
    with np.errstate(divide="ignore"):
        log_tail = np.log(np.maximum(left, 0))[:, None]
    return Candidates(ids.astype(np.int32), log_p.astype(np.float32), log_tail.astype(np.float32))


def require_classes(ids: Any, present: Any, classes: int, refuse: Refuse) -> None:
    """Raises :class:`UsageError` if an id that is ``present`` is not in ``range(classes)``."""
    outside = present & ((ids < 0) | (ids >= classes))
    if outside.any():
        row, column = map(int, np.argwhere(outside)[0])
        raise refuse(row, f"the id {ids[row, column]} is not one of {classes:,} classes.")


def read_pairs(ids: Any, log_probabilities: Any, classes: int, where: str) -> Candidates:
    """Candidates from arrays or nested lists whose last axis may be ragged, ``[..., k]``.

    Args:
        ids: Candidates; see :func:`largest_candidates`.
        log_probabilities: Their log-probabilities, of the same form.
        classes: Number of classes.
        where: Begins messages.

    Returns:
        Arrays ``[..., k]``, with the largest ``k`` of all positions.

    Raises:
        UsageError: As for :func:`largest_candidates`; or forms differ, or ids are no integers.
    """
    (rows, shape), (values, of_values) = _rows(ids, where), _rows(log_probabilities, where)
    if shape != of_values or any(len(r) != len(v) for r, v in zip(rows, values, strict=True)):
        raise UsageError(
            f"{where}: ids and log_probabilities must have the same form, got {shape} and "
            f"{of_values} positions, or other numbers of pairs in one."
        )
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise UsageError(f"{where}: classes must be an int >= 1, got {classes!r}.")

    def refuse(position: int, what: str) -> UsageError:
        return UsageError(f"{where}, position {position}: {what}")

    counts = np.array([len(row) for row in rows], int)
    inside = np.arange(counts.max(initial=0)) < counts[:, None]
    padded_ids, padded = np.full(inside.shape, classes, np.int64), np.full(inside.shape, -np.inf)
    for position, row in enumerate(rows):
        if len(row) and not np.issubdtype(row.dtype, np.integer):
            raise refuse(position, f"ids must be integers, got {row.dtype}.")
    if inside.any():
        padded_ids[inside], padded[inside] = np.concatenate(rows), np.concatenate(values)
    found = largest_candidates(padded_ids, padded, None, classes, refuse)
    return Candidates(*(array.reshape(*shape, array.shape[-1]) for array in found))


def _rows(nested: Any, where: str) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """The last axis of an array or of nested lists, position by position, and the other axes."""
    if hasattr(nested, "shape") and nested.ndim:
        array = np.asarray(nested)
        return list(array.reshape(-1, array.shape[-1])), array.shape[:-1]
    if not isinstance(nested, (list, tuple)):
        raise UsageError(
            f"{where} needs arrays [..., k] or nested lists, got {type(nested).__name__}."
        )
    if not any(isinstance(item, (list, tuple)) or np.ndim(item) for item in nested):
        return [np.asarray(nested)], ()
    parts = [_rows(item, where) for item in nested]
    shapes = {shape for _, shape in parts}
    if len(shapes) > 1:
        raise UsageError(f"{where}: only the last axis may be ragged, got {sorted(shapes)}.")
    return [row for rows, _ in parts for row in rows], (len(nested), *shapes.pop())
