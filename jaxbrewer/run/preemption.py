"""SIGTERM, which announces that the machine goes away, as a question the loop can ask."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def watch_sigterm() -> Iterator[Callable[[int], bool]]:
    """Within it, SIGTERM ends nothing; the function it gives tells whether one has come.

    It takes the number of the update. With several processes, all get the same answer at the same
    update, through JAX's preemption service. Outside the main thread signals stay as they are.
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
