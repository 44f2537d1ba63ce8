"""Prompts of any length as one batch of few shapes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from ..errors import UsageError

SMALLEST_BUCKET = 16


class Prompts(NamedTuple):
    """Prompts, padded on the left.

    Attributes:
        input_ids: ``[batch, bucket]``.
        attention_mask: ``[batch, bucket]``, 0 for padding.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray

    @classmethod
    def of(cls, input_ids: Any, attention_mask: Any = None, *, pad: int = 0) -> Self:
        """Pads prompts to a bucket.

        Args:
            input_ids: A list of lists of tokens, or a matrix of them.
            attention_mask: 0 for padding of a matrix, on either side; ``None`` for none.
            pad: The token that fills up.

        Raises:
            UsageError: They are no lists of integers, or a prompt is empty.

        Examples:
            >>> prompts = Prompts.of([[5, 6, 7], [8]])
            >>> prompts.input_ids.shape, prompts.input_ids[1, -2:].tolist()
            ((2, 16), [0, 8])
        """
        rows = _rows(input_ids, attention_mask)
        width = bucket_of(max(map(len, rows)))
        ids = np.full((len(rows), width), pad, np.int32)
        mask = np.zeros((len(rows), width), np.int32)
        for row, tokens in enumerate(rows):
            ids[row, width - len(tokens) :] = tokens
            mask[row, width - len(tokens) :] = 1
        return cls(ids, mask)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(self.attention_mask.sum(axis=1).max())


def bucket_of(length: int) -> int:
    """The smallest power of 2 that is not below ``length``, at least ``SMALLEST_BUCKET``.

    Examples:
        >>> [bucket_of(length) for length in (1, 16, 17, 100)]
        [16, 16, 32, 128]
    """
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def _rows(input_ids: Any, attention_mask: Any) -> Sequence[np.ndarray]:
    try:
        rows = [np.asarray(row) for row in input_ids]
    except TypeError:
        kind = type(input_ids).__name__
        raise UsageError(f"input_ids must be lists of tokens, got {kind}.") from None
    if attention_mask is not None:
        masks = [np.asarray(row) for row in attention_mask]
        if [row.shape for row in rows] != [mask.shape for mask in masks]:
            raise UsageError("attention_mask must have the shape of input_ids.")
        rows = [row[mask != 0] for row, mask in zip(rows, masks, strict=True)]
    if not rows:
        raise UsageError("input_ids holds no prompt.")
    for number, row in enumerate(rows):
        if not row.size:
            raise UsageError(f"Prompt {number} is empty: begin it with the model's first token.")
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise UsageError(
                f"Prompt {number} must be a list of integers, got {row.dtype}{list(row.shape)}."
            )
    return rows
