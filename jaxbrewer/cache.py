"""A teacher that is run once per batch, its outputs kept in memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from .adaptors import Outputs
from .data import as_arrays, count_batches


class CachedLoader:
    """Batches with the teacher's outputs under ``"teacher_cache"``, in a new order every epoch.

    Batches keep their composition. Everything is held in host memory.

    Args:
        dataloader: Walked through once, when the loader is made.
        teach: ``batch -> Outputs``, or a tuple of them for several teachers; all of it is kept.
        batch_postprocessor: Applied to each batch once, before the teacher sees it.
        seed: Seed of the orders.
    """

    def __init__(
        self,
        dataloader: Any,
        teach: Callable[[Any], Outputs | tuple[Outputs, ...]],
        batch_postprocessor: Callable[[Any], Any] | None = None,
        *,
        seed: int = 0,
    ):
        count_batches(dataloader)
        self._seed, self._epoch, self._first = seed, 0, 0
        self._batches: list[dict[str, Any]] = []
        for batch in dataloader:
            batch = batch_postprocessor(batch) if batch_postprocessor else batch
            batch = as_arrays(batch)
            outputs = teach(batch)
            split = isinstance(batch, Mapping) and {"teacher", "student"} <= batch.keys()
            parts = batch if split else {"teacher": batch, "student": batch}
            self._batches.append({**parts, "teacher_cache": jax.device_get(outputs)})

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of ``epoch``, counted from 0."""
        self.set_position(epoch, 0)

    def set_position(self, epoch: int, batch: int) -> None:
        """Makes the next iteration that of ``epoch`` from ``batch`` on, both counted from 0."""
        self._epoch, self._first = epoch, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self))[self._first :]
        self._epoch, self._first = self._epoch + 1, 0
        yield from (self._batches[index] for index in order)
