"""Any iterable of batches, grouped into optimizer steps."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeAlias

from ..errors import UsageError
from .batches import Batch, batch_size
from .position import Position, batches_of_pass, position_of


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
