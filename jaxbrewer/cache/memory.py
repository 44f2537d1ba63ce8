"""A teacher that runs once, its outputs in memory: by batch, or by example."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ..data.batch_parts import is_split
from ..data.batches import as_batch
from ..data.groups import count_batches, set_epoch
from ..errors import UsageError
from ..forward.adaptors import Outputs
from .batch_widths import chosen_paths, common_paths
from .examples import BatchExamples, examples_of, teacher_inputs
from .keys import content_digests, keys_of
from .lookup import OutputLookup, with_outputs
from .manifest import Manifest, Storage
from .record_layout import RecordLayout, layout_of
from .records import encode


class CachedLoader:
    """Batches with the teacher's outputs under ``"teacher_cache"``, in a new order every epoch.

    Batches keep their composition. Everything is held in host memory.

    Args:
        dataloader: Read once, in the constructor.
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
        contents = _Contents()
        for batch in dataloader:
            batch = as_batch(batch_postprocessor(batch) if batch_postprocessor else batch)
            contents.add(batch)
            outputs = teach(batch)
            parts = batch if is_split(batch) else {"teacher": batch, "student": batch}
            self._batches.append({**parts, "teacher_cache": jax.device_get(outputs)})
        set_epoch(dataloader, 1)
        again = None if isinstance(dataloader, Iterator) else next(iter(dataloader), None)
        set_epoch(dataloader, 0)
        if again is not None:
            again = as_batch(batch_postprocessor(again) if batch_postprocessor else again)
            if contents.lack(again):
                warnings.warn(_CHANGES, stacklevel=4)

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


_CHANGES = (
    "The second epoch of the dataloader holds examples that the first one lacks (augmentation, a "
    "random batch_postprocessor, drop_last), but is_caching_logits repeats the batches of the "
    "first epoch. Make all epochs the same, or turn is_caching_logits off."
)


class _Contents:
    """The examples of a loader's epoch, by digests of what the models get."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()
        self._row_shapes: set[Any] = set()
        self._is_known = True

    def add(self, batch: Any) -> None:
        """Takes a batch."""
        self._digests |= self._digests_of(batch)

    def lack(self, batch: Any) -> bool:
        """Whether an example of a batch was in no batch before; false where that is not known.

        Examples that are padded to the width of their batch, without an ``attention_mask``, have
        another content in every batch.
        """
        digests = self._digests_of(batch)
        return self._is_known and len(self._row_shapes) <= 1 and not digests <= self._digests

    def _digests_of(self, batch: Any) -> set[bytes]:
        parts = (batch["teacher"], batch["student"]) if is_split(batch) else (batch,)
        try:
            digests = [content_digests(part) for part in parts]
        except UsageError:  # no common batch axis
            self._is_known = False
            return set()
        for part in parts:
            if not (isinstance(part, Mapping) and "attention_mask" in part):
                self._row_shapes.add(tuple(np.shape(leaf)[1:] for leaf in jax.tree.leaves(part)))
        return set(keys_of(np.concatenate(digests, axis=1)))


class MemoryCache:
    """A teacher's outputs by example, filled as batches arrive.

    Args:
        number: The index among several teachers, for batches with a part for each.
    """

    def __init__(self, number: int | None = None):
        self._number = number
        self._records: dict[bytes, bytes] = {}
        self._common: dict[str, list[str]] = {}
        self._layout: RecordLayout | None = None

    def lacks(self, batch: Any) -> bool:
        """Whether an example of the batch is missing."""
        return any(
            key not in self._records for key in keys_of(_ids(examples_of(batch, self._number)))
        )

    def add(self, batch: Any, outputs: Outputs) -> None:
        """Stores the outputs of a batch's examples; stored examples are not replaced."""
        self._layout = self._layout or layout_of(outputs)
        self._common = common_paths(self._common, outputs, teacher_inputs(batch, self._number))
        examples = examples_of(batch, self._number)
        checks = content_digests(examples.inputs)[:, 0]
        records = encode(examples.split(outputs), self._layout, checks)
        for key, record in zip(keys_of(_ids(examples)), records, strict=True):
            self._records.setdefault(key, record)

    def outputs(self, batch: Any) -> Outputs:
        """The teacher's outputs for a batch's examples, as host arrays."""
        assert self._layout is not None
        places = chosen_paths(self._common)
        manifest = Manifest({}, {}, Storage().to_dict(), "example_id", None, places, {})
        lookup = OutputLookup(manifest, self._layout, self, "the cache in memory", self._number)
        return lookup.outputs(batch)

    def read(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The record of each key."""
        return [self._records.get(key) for key in keys]


def _ids(examples: BatchExamples) -> np.ndarray:
    if examples.ids is None:
        raise UsageError("Some batches of the dataloader have an 'example_id' and others do not.")
    return examples.ids


def cache_by_example(
    dataloader: Any,
    teach: Callable[[Any], Outputs | tuple[Outputs, ...]],
    batch_postprocessor: Callable[[Any], Any] | None = None,
) -> Callable[[Any], dict[str, Any]]:
    """Runs the teacher over a loader's first epoch and stores its outputs by example.

    Args:
        dataloader: Batches have an ``example_id``.
        teach: ``batch -> Outputs``, or a tuple of them for several teachers.
        batch_postprocessor: ``batch -> batch``, applied first.

    Returns:
        A function from any batch of the loader to the batch with ``"teacher_cache"``; it applies
        ``batch_postprocessor`` too, and runs the teacher for examples that the first epoch lacks.
    """
    caches: list[MemoryCache] = []
    several = False

    def fill(batch: Any) -> None:
        nonlocal several
        outputs = jax.device_get(teach(batch))
        several = not isinstance(outputs, Outputs)
        each = (outputs,) if isinstance(outputs, Outputs) else outputs
        if not caches:
            caches.extend(MemoryCache(index if several else None) for index in range(len(each)))
        for cache, one in zip(caches, each, strict=True):
            cache.add(batch, one)

    def with_cached(batch: Any) -> dict[str, Any]:
        batch = as_batch(batch_postprocessor(batch) if batch_postprocessor else batch)
        if any(cache.lacks(batch) for cache in caches):
            fill(batch)
        return with_outputs(batch, caches if several else caches[0])

    set_epoch(dataloader, 0)
    for batch in dataloader:
        batch = as_batch(batch_postprocessor(batch) if batch_postprocessor else batch)
        if not caches or any(cache.lacks(batch) for cache in caches):
            fill(batch)
    return with_cached
