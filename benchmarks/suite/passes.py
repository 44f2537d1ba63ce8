"""A dataloader that lets another side have its turn after each pass."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax


class Passes:
    """A dataloader whose passes are the turns of a training.

    A callback after a checkpoint would be given a copy of the student, which takes time as well.

    Args:
        batches: The batches of a turn.
        between: Called after each pass; the last steps of the turn may still compute.
        passes_before: Number of first passes that are no turns, such as one that fills a cache.
    """

    def __init__(
        self, batches: Sequence[Any], between: Callable[[], object], *, passes_before: int = 0
    ):
        self.batches, self.between, self.passes_before = batches, between, passes_before

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches
        if self.passes_before:
            self.passes_before -= 1
        else:
            self.between()


def wait_for_device() -> None:
    """Waits for all steps that were dispatched."""
    jax.block_until_ready(jax.live_arrays())
