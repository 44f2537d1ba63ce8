"""Loads tokenized examples in batches of few shapes; seed and epoch decide the order."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from ..data.process_rows import ProcessRows
from ..errors import UsageError
from .tokenize import Encoded

WIDTH_STEP = 8
"""Widths of batches are multiples of this number of tokens, up to ``Encoded.max_length``."""

_ALL = ""
"""The name of the only part."""

WINDOW = 50
"""Number of batches whose shuffled examples are sorted by length together."""


def choose_widths(
    lengths: Int[np.ndarray, " examples"], count: int, max_length: int | None = None
) -> list[int]:
    """Chooses at most ``count`` widths that fit all lengths with the least padding.

    Each example is assumed to be padded to the smallest width that fits it. The result is exact, by
    dynamic programming over multiples of ``WIDTH_STEP``.

    Args:
        lengths: Tokens per example.
        count: Maximum number of widths.
        max_length: The largest width, at least the longest example; unlimited by default.

    Returns:
        Ascending multiples of ``WIDTH_STEP``; the last fits the longest example.

    Examples:
        >>> choose_widths(np.array([5, 6, 7, 8, 30, 61]), 2)
        [8, 64]
        >>> choose_widths(np.array([5, 6, 7, 8, 30, 61]), 9)
        [8, 32, 64]
        >>> choose_widths(np.array([5, 6, 7, 8, 30, 61]), 2, max_length=61)
        [8, 61]
    """
    candidates, counts = np.unique(_whole_steps(lengths), return_counts=True)
    widths, examples = candidates.tolist(), np.cumsum(counts).tolist()

    @functools.cache
    def best(last: int, count: int) -> tuple[int, list[int]]:
        """Tokens and widths for all examples up to ``widths[last]``, the largest width used."""
        widest = widths[last]
        options = [(widest * examples[last], [widest])]
        for below in range(last) if count > 1 else ():
            tokens, narrower = best(below, count - 1)
            wide = examples[last] - examples[below]
            options.append((tokens + widest * wide, [*narrower, widest]))
        return min(options)

    return [_width_of(width, max_length) for width in best(len(widths) - 1, count)[1]]


def _whole_steps(lengths: Any) -> Any:
    """The multiples of ``WIDTH_STEP`` that fit these lengths."""
    return -(-lengths // WIDTH_STEP) * WIDTH_STEP


def _width_of(longest: int, max_length: int | None) -> int:
    """The width of a batch whose longest example has ``longest`` tokens."""
    width = int(_whole_steps(longest))
    return width if max_length is None else min(width, max_length)


class TokenLoader(Protocol):
    """A loader of batches of tokens, whose order is a function of the epoch."""

    @property
    def widths(self) -> list[int]:
        """The widths of batches, ascending."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, counted from 0."""
        ...

    def set_position(self, epoch: int, batch: int) -> None:
        """Starts the next iteration at ``batch`` of ``epoch``, both counted from 0."""
        ...


class TextLoader:
    """Loads batches of tokenized examples of similar length.

    Every epoch has a new order, which depends only on the seed and the epoch. Windows of ``WINDOW``
    batches are sorted by length and cut into batches, which are shuffled again, so that padding is
    small. A batch takes the smallest of a few widths that fits it; each width is one shape and one
    compilation. All batches are full except the last, whose examples are drawn like all others. It
    takes the largest width, which adds one shape.

    A batch is a dict of ``input_ids``, ``attention_mask``, ``token_type_ids`` (int32
    ``[batch, width]``), ``example_id`` (the row numbers, int32 ``[batch]``) and, if given,
    ``labels``. Examples of several rows (:attr:`Encoded.group`) lie together.

    Args:
        encoded: The examples. Or the tokens that teacher and student read, under ``"teacher"`` and
            ``"student"``, if they have two tokenizers: batches then have a part for each, each of
            its own width, and there are no more combinations of widths than ``num_widths``.
        batch_size: Examples in a batch.
        labels: One per example, ``[examples, ...]``.
        shuffle: Whether to draw a new order in every epoch; otherwise examples come by length.
        seed: Seed of the orders.
        drop_last: Whether to drop the incomplete last batch.
        num_widths: Maximum number of widths, which are chosen for the least padding.
        per_process: Whether each of several processes gets its own rows of each batch; see
            :class:`~jaxbrewer.ArrayLoader`.

    Raises:
        UsageError: There are no examples, not one label for each, or fewer than a batch.

    Examples:
        >>> tokens = np.arange(6, dtype=np.int32)
        >>> encoded = Encoded(tokens, 0 * tokens, np.array([0, 1, 3, 6]))
        >>> loader = TextLoader(encoded, batch_size=2, labels=[7, 8, 9], shuffle=False)
        >>> len(loader), [batch["labels"].tolist() for batch in loader]
        (2, [[7, 8], [9]])
    """

    def __init__(
        self,
        encoded: Encoded | Mapping[str, Encoded],
        batch_size: int,
        *,
        labels: Any = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        num_widths: int = 4,
        per_process: bool = False,
    ):
        parts = encoded if isinstance(encoded, Mapping) else {_ALL: encoded}
        counts = {name: len(part) // part.group for name, part in parts.items()}
        examples = max(counts.values())
        if len(set(counts.values())) > 1 or (labels is not None and len(parts) > 1):
            raise UsageError(f"TextLoader got parts of {counts} examples, or labels beside parts.")
        if examples == 0 or batch_size < 1 or (drop_last and batch_size > examples):
            raise UsageError(f"TextLoader.batch_size {batch_size} for {examples} examples.")
        if num_widths < 1:
            raise UsageError(f"TextLoader.num_widths must be at least 1, got {num_widths}.")
        if labels is not None and len(labels) != examples:
            raise UsageError(f"TextLoader got {len(labels)} labels for {examples} examples.")
        self._parts, self._batch_size = parts, batch_size
        self._labels = None if labels is None else np.asarray(labels)
        self._shuffle, self._seed, self._drop_last = shuffle, seed, drop_last
        self._epoch, self._first = 0, 0
        self._process_rows = ProcessRows("TextLoader", batch_size, per_process=per_process)
        longest = {
            name: part.lengths.reshape(examples, part.group).max(1) for name, part in parts.items()
        }
        # An example of several parts is as long as all of them, which choose their widths together.
        self._lengths = np.sum(list(longest.values()), axis=0)
        self._limits = np.array(choose_widths(self._lengths, num_widths))
        self._widths = {
            name: [
                _width_of(own[_whole_steps(self._lengths) <= limit].max(), parts[name].max_length)
                for limit in self._limits
            ]
            for name, own in longest.items()
        }

    @property
    def widths(self) -> list[int]:
        """The widths of batches, ascending; of several parts those of the last."""
        return list(self._widths.values())[-1]

    def __len__(self) -> int:
        full, rest = divmod(len(self._lengths), self._batch_size)
        return full + (1 if rest >= self._process_rows.count and not self._drop_last else 0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration, counted from 0."""
        self.set_position(epoch, 0)

    def set_position(self, epoch: int, batch: int) -> None:
        """Starts the next iteration at ``batch`` of ``epoch``, both counted from 0."""
        self._epoch, self._first = epoch, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, batches = self._epoch, self._batches(self._epoch)[self._first :]
        self._epoch, self._first = epoch + 1, 0
        for rows in batches:
            full = len(rows) == self._batch_size
            limit = np.searchsorted(self._limits, self._lengths[rows].max()) if full else -1
            yield self._batch(self._process_rows.of(rows), int(limit), epoch)

    def _batch(
        self, examples: Int[np.ndarray, " examples"], limit: int, epoch: int
    ) -> dict[str, Any]:
        """The batch of some examples, whose widths have the number ``limit``."""
        parts = {}
        for name, part in self._parts.items():
            rows = (examples[:, None] * part.group + np.arange(part.group)).reshape(-1)
            parts[name] = part.batch(rows, self._widths[name][limit])
        batch: dict[str, Any] = parts.get(_ALL, parts)
        batch |= {"example_id": rows.astype(np.int32)}
        return batch if self._labels is None else batch | {"labels": self._labels[examples]}

    def _batches(self, epoch: int) -> list[Int[np.ndarray, " rows"]]:
        """The example numbers of each batch."""
        lengths, size = self._lengths, self._batch_size
        if not self._shuffle:
            order = np.argsort(lengths, kind="stable")
            window, draw = len(order), None
        else:
            draw = np.random.default_rng([self._seed, epoch])
            order = draw.permutation(len(lengths))
            window = WINDOW * size
        full = len(order) - len(order) % size
        batches: list[Int[np.ndarray, " rows"]] = []
        for start in range(0, full, window):
            rows = order[start : min(start + window, full)]
            rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, size)
            batches.extend(rows if draw is None else draw.permutation(rows))
        if len(order) - full >= self._process_rows.count and not self._drop_last:
            batches.append(order[full:])
        return batches
