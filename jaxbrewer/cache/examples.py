"""The examples of a batch: its rows, or the documents in its packed rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from ..data.batch_parts import is_split
from ..data.packing import Segments
from ..errors import UsageError
from .keys import EXAMPLE_ID

SEGMENT_IDS = "segment_ids"
"""The batch entry that numbers the documents of packed rows, ``[batch, length]``."""


class BatchExamples(NamedTuple):
    """The examples of a batch, as a cache knows them.

    Attributes:
        inputs: The teacher's inputs, an example per row.
        ids: The number of each example, int64 ``[examples]``; ``None`` if the batch has none.
        segments: Where the examples lie in packed rows; ``None`` if each is a row.
    """

    inputs: Any
    ids: Int[np.ndarray, " examples"] | None
    segments: Segments | None

    def split(self, outputs: Any) -> Any:
        """A model's outputs on the batch, host arrays, with an example per row.

        Raises:
            UsageError: Rows are packed, and an array has no axis of positions.
        """
        if self.segments is None:
            return outputs
        _require_positions(outputs, self.segments.shape)
        return self.segments.split(outputs)

    def join(self, outputs: Any) -> Any:
        """The inverse of :meth:`split`.

        Raises:
            UsageError: As :meth:`split`.
        """
        if self.segments is None:
            return outputs
        count, longest = len(self.segments.lengths), self.segments.lengths.max(initial=0)
        _require_positions(outputs, (count, int(longest) + 1))
        return self.segments.join(outputs)


def examples_of(batch: Any, number: int | None = None) -> BatchExamples:
    """The examples of a batch.

    Rows are packed if the batch's ``example_id`` has a number per position, or, without one, if it
    has ``segment_ids``.

    Args:
        batch: A batch as the teacher gets it.
        number: The index among several teachers, for batches with a part for each.

    Raises:
        UsageError: ``example_id`` does not hold integers, one per row or per position of a packed
            row.
    """
    inputs = teacher_inputs(batch, number)
    ids = _given_ids(batch)
    found = inputs.get(SEGMENT_IDS) if isinstance(inputs, Mapping) else None
    ids = None if ids is None else np.asarray(ids)
    packed = found is not None and np.ndim(found) == 2 and (ids is None or ids.ndim == 2)
    if ids is not None and (ids.dtype.kind not in "iu" or ids.ndim != (2 if packed else 1)):
        raise UsageError(
            f"The batch's {EXAMPLE_ID!r} must hold one integer per example, or one per position of "
            f"packed rows with {SEGMENT_IDS!r}, got {ids.dtype} {ids.shape}."
        )
    if not packed:
        return BatchExamples(inputs, None if ids is None else ids.astype(np.int64), None)
    segments = Segments.of(np.asarray(found))
    inputs = segments.split({**inputs, SEGMENT_IDS: np.minimum(np.asarray(found), 1)})
    if ids is not None:
        ids = ids[segments.rows, segments.starts].astype(np.int64)
    return BatchExamples(inputs, ids, segments)


def teacher_inputs(batch: Any, number: int | None = None) -> Any:
    """The teacher's part of a batch, or that of one of several teachers."""
    if is_split(batch):
        part = batch["teacher"]
        several = isinstance(part, (tuple, list)) and all(isinstance(p, Mapping) for p in part)
        return part[number] if several and number is not None else part
    return batch


def _given_ids(batch: Any) -> Any:
    """The batch's ``example_id``, at the top or in a part; ``None`` if there is none."""
    if not isinstance(batch, Mapping):
        return None
    parts = (batch, batch.get("teacher"), batch.get("student"))
    return next((p[EXAMPLE_ID] for p in parts if isinstance(p, Mapping) and EXAMPLE_ID in p), None)


def _require_positions(outputs: Any, shape: tuple[int, int]) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(outputs):
        if leaf.shape[:2] != shape:
            raise UsageError(
                "Outputs of packed rows are cached by document, so each array needs the positions "
                f"{shape} and a mask: {jax.tree_util.keystr(path)} is {leaf.shape}. Do not cache "
                "it, or use rows that are not packed."
            )
