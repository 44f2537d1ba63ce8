"""Batches of arrays that fit in memory."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ..errors import UsageError
from .batch_parts import Batch
from .conversion import as_arrays
from .process_rows import ProcessRows


class ArrayLoader:
    """Batches of arrays that fit in memory, reshuffled in every epoch.

    The order is a function of the seed and the epoch alone.

    Args:
        arrays: A dict (or tuple) of arrays with the same first axis, one row per example.
        batch_size: Number of examples in a batch.
        shuffle: Whether to draw a new order in every epoch.
        seed: Seed of the shuffling.
        drop_last: Whether to drop the incomplete last batch.
        per_process: Whether each of several processes gets its own rows of each batch, for
            ``TrainingConfig(local_batches=True)``. Rows of an incomplete last batch that do not
            divide among the processes are dropped.

    Raises:
        UsageError: The arrays are empty or differ in length, or ``batch_size`` is less than 1,
            more than the examples with ``drop_last``, or not a multiple of the processes.

    Examples:
        >>> loader = ArrayLoader({"x": np.arange(5)}, batch_size=2, shuffle=False)
        >>> len(loader), [batch["x"].tolist() for batch in loader]
        (3, [[0, 1], [2, 3], [4]])
    """

    def __init__(
        self,
        arrays: Mapping[str, Any] | tuple[Any, ...],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        per_process: bool = False,
    ):
        self._arrays = as_arrays(arrays)
        lengths = {len(leaf) for leaf in jax.tree.leaves(self._arrays)}
        if len(lengths) != 1 or 0 in lengths:
            raise UsageError(
                f"ArrayLoader needs arrays of one positive length, got lengths {sorted(lengths)}."
            )
        (self._examples,) = lengths
        if batch_size < 1 or (drop_last and batch_size > self._examples):
            raise UsageError(f"ArrayLoader.batch_size {batch_size} for {self._examples} examples.")
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._drop_last, self._epoch, self._first = drop_last, 0, 0
        self._process_rows = ProcessRows("ArrayLoader", batch_size, per_process=per_process)

    def with_example_ids(self) -> "ArrayLoader":
        """A copy of the loader whose batches also hold ``"example_id"``, the row of each example.

        A teacher cache finds an example again by its id; no model receives it. Batches that are
        tuples, or that have an ``"example_id"`` already, are unchanged.

        Examples:
            >>> loader = ArrayLoader({"x": np.arange(3)}, batch_size=3, shuffle=False)
            >>> next(iter(loader.with_example_ids()))["example_id"].tolist()
            [0, 1, 2]
        """
        if not isinstance(self._arrays, Mapping):
            return self
        same = copy.copy(self)
        same._arrays = {"example_id": np.arange(self._examples), **self._arrays}
        return same

    def __len__(self) -> int:
        full, rest = divmod(self._examples, self._batch_size)
        return full + (1 if rest >= self._process_rows.count and not self._drop_last else 0)

    @property
    def num_examples(self) -> int:
        """Number of examples in one pass."""
        return len(self) * self._batch_size if self._drop_last else self._examples

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration use the order of ``epoch``, counted from 0."""
        self.set_position(epoch, 0)

    def set_position(self, epoch: int, batch: int) -> None:
        """Makes the next iteration start at ``batch`` of ``epoch``, both counted from 0."""
        self._epoch, self._first = epoch, batch

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(self._examples)
        if self._shuffle:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(self._examples)
        first = self._first
        self._epoch, self._first = self._epoch + 1, 0
        for index in range(first, len(self)):
            rows = order[index * self._batch_size : (index + 1) * self._batch_size]
            rows = self._process_rows.of(rows)
            yield jax.tree.map(lambda leaf: leaf[rows], self._arrays)  # noqa: B023
