"""Documents as rows of tokens: the next-token shift, windows, packing, and the way back.

Nothing else shifts labels or knows where a document ends. Labels are computed once, on whole
documents, before these are cut and packed, so that they travel with their tokens: a row of several
documents has the labels that its documents have alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..errors import UsageError

IGNORED = -100
"""The label of a token after which nothing is learned."""


def next_token_labels(
    input_ids: Int[np.ndarray, " tokens"],
    offsets: Int[np.ndarray, " bounds"],
    is_target: Bool[np.ndarray, " tokens"],
) -> Int[np.ndarray, " tokens"]:
    """The label of each token: the next token of its document.

    Args:
        input_ids: The tokens of all documents.
        offsets: Start of each document, and the total.
        is_target: Which tokens are learned; a prompt's are not.

    Returns:
        ``IGNORED`` where the next token is no target, and at the end of a document.

    Examples:
        >>> tokens, targets = np.array([5, 6, 7, 8, 9]), np.array([1, 1, 1, 0, 1], bool)
        >>> next_token_labels(tokens, np.array([0, 3, 5]), targets).tolist()
        [6, 7, -100, 9, -100]
    """
    labels = np.full_like(input_ids, IGNORED)
    labels[:-1] = np.where(is_target[1:], input_ids[1:], IGNORED)
    labels[np.asarray(offsets[1:]) - 1] = IGNORED
    return labels


def cut_windows(offsets: Int[np.ndarray, " bounds"], window: int) -> Int[np.ndarray, " bounds"]:
    """Cuts documents into pieces of at most ``window`` tokens.

    Examples:
        >>> cut_windows(np.array([0, 3, 8]), 4).tolist()
        [0, 3, 7, 8]
    """
    lengths = np.diff(offsets)
    pieces = -(-lengths // window)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(offsets[:-1], pieces) + number * window
    return np.append(starts, offsets[-1])


@dataclasses.dataclass(frozen=True)
class Packing:
    """Rows filled with slots for documents of given lengths.

    Attributes:
        rows: The row of each slot, ``[slots]``. Slots are ordered by length, the longest first.
        starts: Its first position in the row, ``[slots]``.
        count: Number of rows.
    """

    rows: Int[np.ndarray, " slots"]
    starts: Int[np.ndarray, " slots"]
    count: int


def pack(lengths: Int[np.ndarray, " documents"], width: int) -> Packing:
    """Packs documents into few rows of ``width`` tokens, by best fit in decreasing order.

    Raises:
        UsageError: A document does not fit.

    Examples:
        >>> packing = pack(np.array([3, 6, 2, 5]), width=8)
        >>> packing.count, packing.rows.tolist(), packing.starts.tolist()
        (2, [0, 1, 1, 0], [0, 0, 5, 6])
    """
    ordered = np.sort(lengths)[::-1].tolist()
    if ordered and ordered[0] > width:
        raise UsageError(f"A document of {ordered[0]} tokens does not fit a row of {width}.")
    rows, starts, count = np.zeros(len(ordered), np.int64), np.zeros(len(ordered), np.int64), 0
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by their free positions
    has_open = 0  # bit f: some row has f free positions
    for slot, length in enumerate(ordered):
        large_enough = has_open >> length
        if large_enough:
            free = length + (large_enough & -large_enough).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                has_open ^= 1 << free
        else:
            row, free, count = count, width, count + 1
        rows[slot], starts[slot] = row, width - free
        open_rows[free - length].append(row)
        has_open |= 1 << (free - length)
    return Packing(rows, starts, count)


def segment_positions(
    starts: Int[np.ndarray, " segments"], lengths: Int[np.ndarray, " segments"]
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
    """The tokens of segments, one after the other: places from ``starts`` on, and from 0 on.

    Examples:
        >>> [part.tolist() for part in segment_positions(np.array([10, 4]), np.array([2, 3]))]
        [[10, 11, 4, 5, 6], [0, 1, 0, 1, 2]]
    """
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within, within


@dataclasses.dataclass(frozen=True)
class Segments:
    """The documents in a batch of packed rows.

    Attributes:
        rows: The row of each document, ``[segments]``.
        starts: Its first position, ``[segments]``.
        lengths: Its number of tokens, ``[segments]``.
        shape: Rows and positions of the batch.
    """

    rows: Int[np.ndarray, " segments"]
    starts: Int[np.ndarray, " segments"]
    lengths: Int[np.ndarray, " segments"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, segment_ids: Int[np.ndarray, "batch length"]) -> "Segments":
        """The runs of equal numbers other than 0, which stands for padding.

        Examples:
            >>> segments = Segments.of(np.array([[1, 1, 2, 0], [1, 1, 1, 1]]))
            >>> segments.rows.tolist(), segments.starts.tolist(), segments.lengths.tolist()
            ([0, 0, 1], [0, 2, 0], [2, 1, 4])
        """
        ids = np.asarray(segment_ids)
        edge = np.zeros((len(ids), 1), ids.dtype)
        before, after = np.hstack([edge, ids[:, :-1]]), np.hstack([ids[:, 1:], edge])
        last = np.zeros_like(ids, bool)
        last[:, -1:] = True
        first = np.zeros_like(ids, bool)
        first[:, :1] = True
        rows, starts = np.nonzero((ids != 0) & ((ids != before) | first))
        ends = np.nonzero((ids != 0) & ((ids != after) | last))[1] + 1
        shape = (int(ids.shape[0]), int(ids.shape[1]))
        return cls(rows, starts, ends - starts, shape)

    def split(self, tree: Any) -> Any:
        """A batch with a row for each document, one position wider than the longest.

        Args:
            tree: Arrays ``[batch, length, ...]``; of others, each document gets its row.

        Returns:
            Arrays ``[segments, longest + 1, ...]``, 0 after the end of a document.
        """
        places = self.starts[:, None] + np.arange(self.lengths.max(initial=0) + 1)
        inside = places < (self.starts + self.lengths)[:, None]
        places = np.minimum(places, self.shape[1] - 1)

        def of(leaf: Any) -> np.ndarray:
            leaf = np.asarray(leaf)
            if leaf.shape[:2] != self.shape:
                return leaf[self.rows]
            found = leaf[self.rows[:, None], places]
            found[~inside] = 0
            return found

        import jax

        return jax.tree.map(of, tree)

    def join(self, tree: Any) -> Any:
        """The inverse of :meth:`split`; padding holds what the last position of a row holds.

        Args:
            tree: Arrays ``[segments, longest + 1, ...]``.

        Returns:
            Arrays ``[batch, length, ...]``.
        """
        source = np.zeros(self.shape, np.int64)
        places = np.full(self.shape, self.lengths.max(initial=0))
        flat, within = segment_positions(self.rows * self.shape[1] + self.starts, self.lengths)
        source.reshape(-1)[flat] = np.repeat(np.arange(len(self.rows)), self.lengths)
        places.reshape(-1)[flat] = within
        import jax

        return jax.tree.map(lambda leaf: np.asarray(leaf)[source, places], tree)


def rows_of_tokens(
    columns: dict[str, tuple[Int[np.ndarray, " tokens"], int]],
    offsets: Int[np.ndarray, " bounds"],
    documents: Sequence[int] | Int[np.ndarray, " segments"],
    segments: Segments,
) -> dict[str, Int[np.ndarray, "batch length"]]:
    """Writes documents into the segments of a batch.

    Args:
        columns: For each entry of the batch the values of all tokens, and that of padding.
        offsets: Start of each document in them, and the total.
        documents: The document in each segment.
        segments: Where they go, row by row from the left.

    Returns:
        int32 ``[batch, length]``: the columns; ``attention_mask``; ``segment_ids``, which count
        from 1 in each row, 0 for padding; ``position_ids``, which restart at 0.

    Examples:
        >>> two = Segments.of(np.array([[1, 1, 2, 0]]))
        >>> tokens = {"input_ids": (np.array([5, 6, 7], np.int32), 0)}
        >>> batch = rows_of_tokens(tokens, np.array([0, 1, 3]), [1, 0], two)
        >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
        ([[6, 7, 5, 0]], [[0, 1, 0, 0]])
    """
    rows, lengths, width = segments.rows, segments.lengths, segments.shape[1]
    target, within = segment_positions(rows * width + segments.starts, lengths)
    source, _ = segment_positions(offsets[np.asarray(documents, int)], lengths)
    first_of_row = np.searchsorted(rows, rows)
    number = np.repeat(np.arange(len(rows)) - first_of_row + 1, lengths)

    def filled(values: Any, fill: int) -> np.ndarray:
        array = np.full(segments.shape, fill, np.int32)
        array.reshape(-1)[target] = values
        return array

    batch = {name: filled(values[source], fill) for name, (values, fill) in columns.items()}
    return batch | {
        "attention_mask": filled(1, 0),
        "segment_ids": filled(number, 0),
        "position_ids": filled(within, 0),
    }
