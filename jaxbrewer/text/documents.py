"""Tokenized documents for language models, cut into windows, padded or packed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..data.packing import (
    IGNORED,
    Segments,
    cut_windows,
    next_token_labels,
    pack,
    rows_of_tokens,
    segment_positions,
)
from ..data.process_rows import ProcessRows
from ..errors import UsageError
from .tokenize import Encoded

LOSS_MASK = "loss_mask"
"""The batch entry that is 1 where a token's successor is learned."""

_FILL = {"labels": IGNORED, LOSS_MASK: 0}


@dataclasses.dataclass(frozen=True)
class Documents(Encoded):
    """Tokenized documents, with columns and facts for language models.

    Its ``token_columns`` are ``labels``, the next token of the document or ``IGNORED``, and
    ``loss_mask``, 1 where there is a label. Its ``token_facts`` are ``label_bytes``, the UTF-8
    bytes of the label's text. Its ``facts`` are ``document``, the document that a piece is cut
    from, and ``first``, the place of its first token there.
    """

    @property
    def loss_mask(self) -> Int[np.ndarray, " tokens"]:
        """1 for tokens whose successor is learned."""
        return self.token_columns[LOSS_MASK]

    @property
    def label_count(self) -> int:
        """Number of tokens whose successor is learned."""
        return int(self.loss_mask.sum())

    def windows(self, width: int, *, truncate: bool = False) -> "Documents":
        """Cuts documents into pieces of at most ``width`` tokens.

        The last token of a piece keeps its label, the first token of the next, so that no label is
        lost. The pieces are examples of their own: none sees another. Pieces without a label
        (one token that ends a document, a part of a long prompt) are dropped.

        Args:
            width: Maximum number of tokens.
            truncate: Whether to keep only the first piece of each document.

        Raises:
            UsageError: No piece has a label.

        Examples:
            >>> one = make_documents([np.arange(5)])
            >>> one.windows(2).batch([0, 1], width=2)["labels"].tolist()
            [[1, 2], [3, 4]]
        """
        offsets = cut_windows(self.offsets, width)
        source = np.searchsorted(self.offsets, offsets[:-1], side="right") - 1
        first = offsets[:-1] - self.offsets[source]
        has_label = np.add.reduceat(self.loss_mask, offsets[:-1]) > 0
        keep = np.flatnonzero(has_label & ((first == 0) | (not truncate)))
        if not len(keep):
            raise UsageError(
                f"No window of {width} tokens has a token to learn: prompts fill all of them."
            )
        facts = {name: values[source] for name, values in self.facts.items()}
        facts["first"] = facts["first"] + first
        return dataclasses.replace(self, offsets=offsets, facts=facts).take(keep)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> "Documents":
        """Selects examples by number, in this order."""
        rows = np.asarray(rows, int)
        lengths = self.lengths[rows]
        tokens, _ = segment_positions(self.offsets[rows], lengths)

        def of(columns: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
            return {name: values[chosen] for name, values in columns.items()}

        return dataclasses.replace(
            self,
            input_ids=self.input_ids[tokens],
            token_type_ids=self.token_type_ids[tokens],
            offsets=np.append(0, np.cumsum(lengths)),
            token_columns=of(self.token_columns, tokens),
            token_facts=of(self.token_facts, tokens),
            facts=of(self.facts, rows),
        )

    def batch(self, rows: Sequence[int] | Int[np.ndarray, " rows"], width: int) -> dict[str, Any]:
        """Makes a batch with one example per row, padded to ``width`` tokens.

        Returns:
            ``input_ids``, the ``token_columns``, ``attention_mask``, ``segment_ids`` and
            ``position_ids``, int32 ``[rows, width]``.
        """
        rows = np.asarray(rows, int)
        lengths = self.lengths[rows]
        if len(rows) and lengths.max() > width:
            raise UsageError(f"Examples of {lengths.max()} tokens do not fit a width of {width}.")
        alone = Segments(np.arange(len(rows)), 0 * rows, lengths, (len(rows), width))
        return self.packed_batch(rows, alone)

    def packed_batch(
        self, rows: Int[np.ndarray, " segments"], segments: Segments
    ) -> dict[str, Any]:
        """Makes a batch with an example in each of ``segments``."""
        columns = {"input_ids": (self.input_ids, self.pad_id)}
        columns |= {name: (values, _FILL[name]) for name, values in self.token_columns.items()}
        return rows_of_tokens(columns, self.offsets, rows, segments)


def make_documents(
    tokens: Sequence[Int[np.ndarray, " tokens"]],
    is_target: Sequence[Bool[np.ndarray, " tokens"]] | None = None,
    token_bytes: Sequence[Int[np.ndarray, " tokens"]] | None = None,
    *,
    pad_id: int = 0,
) -> Documents:
    """Documents from the tokens of each.

    Args:
        tokens: The tokens of each document, at least one.
        is_target: Which of them are learned; by default all.
        token_bytes: UTF-8 bytes of the text of each; by default 0.
        pad_id: Id of the padding token, which is masked.

    Examples:
        >>> documents = make_documents([np.array([5, 6, 7]), np.array([8, 9])])
        >>> documents.token_columns["labels"].tolist()
        [6, 7, -100, 9, -100]
    """
    offsets = np.append(0, np.cumsum([len(own) for own in tokens])).astype(np.int64)
    ids = np.concatenate([np.zeros(0, np.int32), *tokens]).astype(np.int32)
    targets = np.ones(len(ids), bool) if is_target is None else np.concatenate(is_target)
    labels = next_token_labels(ids, offsets, targets)
    label_bytes = np.zeros(len(ids), np.int32)
    if token_bytes is not None:
        label_bytes[:-1] = np.concatenate(token_bytes)[1:]
        label_bytes[labels == IGNORED] = 0
    return Documents(
        ids,
        np.zeros_like(ids),
        offsets,
        pad_id,
        token_columns={"labels": labels, LOSS_MASK: (labels != IGNORED).astype(np.int32)},
        token_facts={"label_bytes": label_bytes},
        facts={"document": np.arange(len(tokens)), "first": np.zeros(len(tokens), np.int64)},
    )


class PackedLoader:
    """Loads batches of rows that hold several documents each.

    Lengths are packed once, by best fit in decreasing order over all documents. Every epoch draws
    anew which of the documents of a length goes where, and the order of the rows; seed and epoch
    decide both. All rows have one width, and all batches but the last one shape.

    A batch is a dict of ``input_ids``, ``labels``, ``loss_mask``, ``attention_mask``,
    ``segment_ids`` (from 1 in each row, 0 for padding), ``position_ids`` (which restart with each
    document) and ``example_id`` (the number of the document, -1 for padding), int32
    ``[batch, width]``.

    Args:
        documents: The documents.
        batch_size: Rows in a batch.
        width: Tokens in a row, at least those of the longest document.
        shuffle: Whether to draw in every epoch; otherwise all epochs are the same.
        seed: Seed of the draws.
        drop_last: Whether to drop the incomplete last batch.
        per_process: Whether each of several processes gets its own rows of each batch; see
            :class:`~jaxbrewer.ArrayLoader`.

    Raises:
        UsageError: There are no documents, one does not fit a row, or there are fewer rows than a
            batch.
    """

    def __init__(
        self,
        documents: Documents,
        batch_size: int,
        width: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        per_process: bool = False,
    ):
        self._documents, self._batch_size, self._width = documents, batch_size, width
        self._packing = pack(documents.lengths, width)
        rows = self._packing.count
        if rows == 0 or batch_size < 1 or (drop_last and batch_size > rows):
            raise UsageError(f"PackedLoader.batch_size {batch_size} for {rows} rows.")
        self._shuffle, self._seed, self._drop_last = shuffle, seed, drop_last
        self._epoch, self._first = 0, 0
        self._process_rows = ProcessRows("PackedLoader", batch_size, per_process=per_process)
        by_row = np.argsort(self._packing.rows, kind="stable")
        self._slots = by_row[np.lexsort((self._packing.starts[by_row], self._packing.rows[by_row]))]
        self._bounds = np.searchsorted(self._packing.rows[self._slots], np.arange(rows + 1))

    @property
    def widths(self) -> list[int]:
        """The width of all batches."""
        return [self._width]

    @property
    def filled(self) -> float:
        """The part of all positions that hold a token."""
        return float(self._documents.lengths.sum() / (self._packing.count * self._width))

    def __len__(self) -> int:
        full, rest = divmod(self._packing.count, self._batch_size)
        return full + (1 if rest >= self._process_rows.count and not self._drop_last else 0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, counted from 0."""
        self.set_position(epoch, 0)

    def set_position(self, epoch: int, batch: int) -> None:
        """Starts the next iteration at ``batch`` of ``epoch``, both counted from 0."""
        self._epoch, self._first = epoch, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, first = self._epoch, self._first
        self._epoch, self._first = epoch + 1, 0
        lengths, rows = self._documents.lengths, np.arange(self._packing.count)
        ties = np.zeros(len(lengths))
        if self._shuffle:
            draw = np.random.default_rng([self._seed, epoch])
            ties, rows = draw.random(len(lengths)), draw.permutation(rows)
        in_slot = np.lexsort((ties, -lengths))
        for number in range(first, len(self)):
            start = number * self._batch_size
            chosen = self._process_rows.of(rows[start : start + self._batch_size])
            yield self._batch(chosen, in_slot)

    def _batch(
        self, rows: Int[np.ndarray, " rows"], in_slot: Int[np.ndarray, " slots"]
    ) -> dict[str, Any]:
        counts = self._bounds[rows + 1] - self._bounds[rows]
        places, _ = segment_positions(self._bounds[rows], counts)
        slots = self._slots[places]
        examples = in_slot[slots]
        segments = Segments(
            np.repeat(np.arange(len(rows)), counts),
            self._packing.starts[slots],
            self._documents.lengths[examples],
            (len(rows), self._width),
        )
        batch = self._documents.packed_batch(examples, segments)
        example_id = np.full(segments.shape, -1, np.int32)
        target, _ = segment_positions(
            segments.rows * self._width + segments.starts, segments.lengths
        )
        example_id.reshape(-1)[target] = np.repeat(examples, segments.lengths)
        return batch | {"example_id": example_id}
