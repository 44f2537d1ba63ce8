"""Batches: from arrays, from any iterable, grouped into optimizer updates."""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias

import jax
import numpy as np

from ..errors import UsageError
from .parts import Parts
from .position import Position, batches_of_pass, position_of

Batch = Any


class ArrayLoader:
    """Batches of arrays that fit in memory, reshuffled in every epoch.

    The order is a function of the seed and the epoch alone.

    Args:
        arrays: A dict (or tuple) of arrays with the same first axis, one row per example.
        batch_size: Examples in a batch.
        shuffle: Whether to draw a new order in every epoch.
        seed: Seed of the orders.
        drop_last: Whether to leave out the incomplete last batch.
        per_process: Whether each of several processes gets its own rows of each batch, for
            ``TrainingConfig(local_batches=True)``. Of an incomplete last batch, the rows that do
            not divide among the processes are left out.

    Raises:
        UsageError: The arrays differ in length or hold nothing, or a batch would be empty or does
            not divide among the processes.

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
        self._parts = Parts("ArrayLoader", batch_size, per_process=per_process)

    def with_example_ids(self) -> "ArrayLoader":
        """The same loader, whose batches name their examples: the rows, as ``"example_id"``.

        What is kept of an example from one epoch to another is found again by it. No model gets
        it. Batches that are tuples, or have one already, stay as they are.

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
        return full + (1 if rest >= self._parts.count and not self._drop_last else 0)

    @property
    def num_examples(self) -> int:
        """Examples in one pass."""
        return len(self) * self._batch_size if self._drop_last else self._examples

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of ``epoch``, counted from 0."""
        self.set_position(epoch, 0)

    def set_position(self, epoch: int, batch: int) -> None:
        """Makes the next iteration that of ``epoch`` from ``batch`` on, both counted from 0."""
        self._epoch, self._first = epoch, batch

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(self._examples)
        if self._shuffle:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(self._examples)
        first = self._first
        self._epoch, self._first = self._epoch + 1, 0
        for index in range(first, len(self)):
            rows = order[index * self._batch_size : (index + 1) * self._batch_size]
            rows = self._parts.own(rows)
            yield jax.tree.map(lambda leaf: leaf[rows], self._arrays)  # noqa: B023


@dataclasses.dataclass(frozen=True)
class Group:
    """The batches of one optimizer update, and where in the data they stand."""

    batches: tuple[Batch, ...]
    epoch: int
    """Pass over the data that the last of them belongs to, from 0."""
    batch_in_epoch: int
    """Batches of that pass consumed so far."""
    locate: Callable[[], Position]
    """Makes :attr:`position`, which only checkpoints need."""

    @functools.cached_property
    def position(self) -> Position:
        """JSON from which the data go on with the group that follows this one."""
        return self.locate()


GroupSource: TypeAlias = Callable[..., Iterator[Group]]
"""``source(start=position)``: the groups of a training after that one, or all for ``None``."""


def count_batches(dataloader: Any) -> int:
    """Batches in one pass; loaders without a length are walked through once.

    Raises:
        UsageError: It is empty, or an iterator, which can be walked through only once.
    """
    if isinstance(dataloader, Sized):
        count = len(dataloader)
    elif not isinstance(dataloader, Iterable):
        raise UsageError(
            f"The dataloader must be an iterable of batches, got {type(dataloader).__name__}."
        )
    elif isinstance(dataloader, Iterator):
        raise UsageError(
            "The dataloader is an iterator without a length, so the steps of an epoch are unknown: "
            "pass num_steps instead of num_epochs, or list(dataloader)."
        )
    else:
        count = sum(1 for _ in dataloader)
    if count == 0:
        raise UsageError("The dataloader is empty: it has no batches.")
    return count


def count_examples(dataloader: Any) -> int | None:
    """Examples in one pass over a loader, ``None`` if only using it up could tell.

    Our loaders and PyTorch's say it; any other that can be walked through again is walked through
    once.

    Examples:
        >>> count_examples([{"x": np.zeros((4, 2))}, {"x": np.zeros((3, 2))}])
        7
    """
    for owner, name in ((dataloader, "num_examples"), (dataloader, "dataset")):
        value = getattr(owner, name, None)
        if isinstance(value, int):
            return value
        if name == "dataset" and isinstance(value, Sized):
            return len(value)
    if not isinstance(dataloader, Iterable) or isinstance(dataloader, Iterator):
        return None
    return sum(map(batch_size, dataloader))


def batch_size(batch: Batch) -> int:
    """Examples in a batch: the length of its first array that has an axis."""
    part = batch["student"] if isinstance(batch, Mapping) and "student" in batch else batch
    leaves = [leaf for leaf in jax.tree.leaves(part) if np.ndim(leaf)]
    return len(leaves[0]) if leaves else 1


def groups(
    dataloader: Any, size: int, *, num_epochs: int | None = None, start: Position | None = None
) -> Iterator[Group]:
    """``size`` batches at a time.

    With ``num_epochs``, groups do not cross epochs, and what is left at the end of one is not
    used. Without, the data are repeated for ever and groups run across the passes.

    Args:
        dataloader: An iterable of batches; see :mod:`jaxbrewer.data.position` for those that can be
            entered in the middle.
        size: Batches in a group.
        num_epochs: Passes over the data; ``None`` repeats them for ever.
        start: The position of a group: its successors follow.

    Raises:
        UsageError: A pass gives no batches at all (an iterator that has run dry), or the data are
            not those that ``start`` belongs to.
    """
    held: list[Batch] = []
    first = 0 if start is None else start["epoch"]
    for epoch in itertools.count(first) if num_epochs is None else range(first, num_epochs):
        set_epoch(dataloader, epoch)
        seen = 0 if start is None else start["batch"]
        for state, batch in batches_of_pass(dataloader, start):
            seen += 1
            held.append(batch)
            if len(held) == size:
                locate = functools.partial(position_of, epoch, seen, batch, state)
                yield Group(tuple(held), epoch, seen, locate)
                held = []
        if seen == 0:
            raise UsageError(
                "The dataloader has run dry"
                + (f" after {epoch} passes over the data." if epoch else ": it has no batches.")
                + " An iterator can be used up only once; pass a list or a loader."
            )
        start = None
        if num_epochs is not None:
            held = []


def set_epoch(dataloader: Any, epoch: int) -> None:
    """Tells a loader, or its sampler, which epoch begins, where it wants to know."""
    for owner in (dataloader, getattr(dataloader, "sampler", None)):
        tell = getattr(owner, "set_epoch", None)
        if tell is not None:
            tell(epoch)


def as_arrays(batch: Batch) -> Batch:
    """A batch with NumPy or JAX arrays for tensors, numbers and lists of numbers.

    Raises:
        UsageError: An entry holds something else, such as text; the message names it.

    Examples:
        >>> as_arrays({"ids": [[1, 2]], "pair": (1.5, np.zeros(2))})
        {'ids': array([[1, 2]]), 'pair': (array(1.5), array([0., 0.]))}
        >>> as_arrays({"text": ["a", "b"]})
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: The batch entry 'text' holds str, not numbers: leave it out...
    """
    return _as_arrays(batch, "")


def _as_arrays(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_arrays(item, f"{path}.{key}".strip(".")) for key, item in value.items()}
    if isinstance(value, (np.ndarray, jax.Array)) and value.dtype.kind not in "OUS":
        return value
    if not jax.tree_util.all_leaves([value]) and not isinstance(value, (list, tuple)):
        return jax.tree.map(as_arrays, value)  # None, or a dataclass of arrays
    if isinstance(value, (list, tuple)) and not _is_numbers(value):
        if path and isinstance(value, list) and value and isinstance(value[0], str):
            value = value[0]
        else:
            return tuple(_as_arrays(item, f"{path}[{i}]") for i, item in enumerate(value))
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        raise UsageError(
            f"The batch entry {path!r} holds {type(value).__name__}, not numbers: leave it out, or "
            "turn it into arrays in batch_postprocessor."
        )
    return array


def _is_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_numbers, value))
    return isinstance(value, (int, float))


def signature(batch: Batch) -> Any:
    """The structure, shapes and dtypes of a batch, which is what a compiled step is made for."""
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple((np.shape(leaf), np.asarray(leaf).dtype.name) for leaf in leaves)
