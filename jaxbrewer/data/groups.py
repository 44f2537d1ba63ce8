"""Any iterable of batches, grouped into optimizer steps."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from ..errors import UsageError
from .batch_parts import Batch
from .batches import batch_size
from .conversion import as_pytree
from .loader_checks import check_first_batch, check_loader, length_of
from .position import Position, batches_of_pass, position_of


@dataclasses.dataclass(frozen=True)
class Group:
    """The batches of one optimizer step, and their place in the data."""

    batches: tuple[Batch, ...]
    epoch: int
    """Index of the pass over the data that the last batch belongs to, from 0."""
    batch_in_epoch: int
    """Number of batches of that pass consumed so far."""
    make_position: Callable[[], Position]
    """Computes :attr:`position`, which only checkpoints need."""

    @functools.cached_property
    def position(self) -> Position:
        """JSON from which the data resume with the next group."""
        return self.make_position()


ENDLESS = 10**9
"""A loader that claims this many batches repeats its data without end."""
MOST_COUNTED = 10**7
"""A loader without a length that yields more batches than this is taken to be endless."""

GroupSource: TypeAlias = Callable[..., Iterator[Group]]
"""``source(start=position)`` yields the groups after that position, or all of them for ``None``."""


def count_batches(dataloader: Any) -> int:
    """Number of batches in one pass; a loader without a length is iterated over once.

    Raises:
        UsageError: The loader is empty or endless, or an iterator, which can be read only once.
    """
    check_loader(dataloader)
    count = length_of(dataloader)
    if count is None:
        if isinstance(dataloader, Iterator):
            raise UsageError(
                "The dataloader is an iterator without a length, so the steps of an epoch are "
                "unknown: pass num_steps instead of num_epochs, or list(dataloader)."
            )
        count = sum(1 for _ in itertools.islice(dataloader, MOST_COUNTED + 1))
        if count > MOST_COUNTED:
            count = ENDLESS
    if count >= ENDLESS:
        raise UsageError(
            "The dataloader is endless, so the steps of an epoch are unknown: pass num_steps "
            "instead of num_epochs, or a data set without repeat()."
        )
    if count == 0:
        raise UsageError("The dataloader is empty: it has no batches.")
    return count


def count_examples(dataloader: Any) -> int | None:
    """Number of examples in one pass, or ``None`` if a pass ends never or can be read only once.

    Loaders of this package and of PyTorch report it; any other loader is iterated over once.

    Examples:
        >>> import numpy as np
        >>> count_examples([{"x": np.zeros((4, 2))}, {"x": np.zeros((3, 2))}])
        7
    """
    if isinstance(getattr(dataloader, "num_examples", None), int):
        return dataloader.num_examples
    examples = length_of(getattr(dataloader, "dataset", None))
    if examples is not None:
        return examples
    if not isinstance(dataloader, Iterable) or isinstance(dataloader, Iterator):
        return None
    if (length_of(dataloader) or 0) >= ENDLESS:
        return None
    return sum(batch_size(as_pytree(batch)) for batch in dataloader)


def groups(
    dataloader: Any, size: int, *, num_epochs: int | None = None, start: Position | None = None
) -> Iterator[Group]:
    """Yields ``size`` batches at a time.

    With ``num_epochs``, a group never spans two epochs, and the incomplete group at the end of an
    epoch is dropped. Without it, the data repeat forever and a group may span two passes.

    Args:
        dataloader: An iterable of batches; :mod:`jaxbrewer.data.position` says which loaders resume
            without reading the earlier batches.
        size: Number of batches in a group.
        num_epochs: Number of passes over the data; ``None`` repeats them forever.
        start: Position of a group; iteration resumes with the next one.

    Raises:
        UsageError: A pass yields no batches (an exhausted iterator); with ``num_epochs``, an epoch
            has not as many batches as the loader's length; or the data do not match ``start``.
    """
    check_loader(dataloader)
    held: list[Batch] = []
    first = 0 if start is None else start["epoch"]
    for epoch in itertools.count(first) if num_epochs is None else range(first, num_epochs):
        set_epoch(dataloader, epoch)
        length = length_of(dataloader)
        seen = 0 if start is None else start["batch"]
        for state, batch in batches_of_pass(dataloader, start):
            if seen == 0:
                check_first_batch(dataloader, batch)
            seen += 1
            held.append(batch)
            if len(held) == size:
                make_position = functools.partial(position_of, epoch, seen, batch, state)
                yield Group(tuple(held), epoch, seen, make_position)
                held = []
        if seen == 0:
            raise UsageError(
                "The dataloader is exhausted"
                + (f" after {epoch} passes over the data." if epoch else ": it has no batches.")
                + " An iterator can be read only once; pass a list or a loader."
            )
        start = None
        if num_epochs is not None:
            _check_length(length, epoch, seen)
            held = []


def _check_length(length: int | None, epoch: int, seen: int) -> None:
    """Checks that an epoch had as many batches as the steps were planned for."""
    if length is not None and seen != length:
        raise UsageError(
            f"The dataloader yielded {seen} batches in epoch {epoch}, but its length is {length}, "
            "from which the steps are counted: correct its length, or pass num_steps."
        )


def set_epoch(dataloader: Any, epoch: int) -> None:
    """Calls ``set_epoch`` of a loader and of its sampler, where they have it."""
    for owner in (dataloader, getattr(dataloader, "sampler", None)):
        setter = getattr(owner, "set_epoch", None)
        if setter is not None:
            setter(epoch)
