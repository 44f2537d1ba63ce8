"""SIGTERM, which announces that the machine goes away, as a flag that the loop reads."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def watch_sigterm() -> Iterator[Callable[[int], bool]]:
    """Catches SIGTERM; yields a function that returns whether one has arrived.

    The function takes the number of the step. With several processes, all get the same answer at
    the same step, through JAX's preemption service. Outside the main thread nothing is caught.
    """
    if jax.process_count() > 1:
        if jax.config.jax_enable_preemption_service:  # type: ignore[attr-defined]
            yield multihost_utils.reached_preemption_sync_point
        else:
            yield lambda number: False
        return
    noticed: list[int] = []  # no lock: a second signal may interrupt the handler of the first
    if threading.current_thread() is not threading.main_thread():
        yield lambda number: False
        return

    def notice(number: int, frame: FrameType | None) -> None:
        noticed.append(number)

    before = signal.signal(signal.SIGTERM, notice)
    try:
        yield lambda number: bool(noticed)
    finally:
        signal.signal(signal.SIGTERM, before)
