"""Ctrl-C, delayed while a step replaces the state."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """Delays Ctrl-C while the state is replaced, so that there is always a state to keep.

    A step donates the buffers of the old state; an interrupt before the new one is assigned would
    lose both. Outside the main thread, or where SIGINT has no handler, nothing changes.
    """

    def __init__(self) -> None:
        self._is_delayed = False
        self._arrived: tuple[int, FrameType | None] | None = None
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """Within it, Ctrl-C waits for the end of the block."""
        self._is_delayed = True
        try:
            yield
        finally:
            self._is_delayed = False
            arrived, self._arrived = self._arrived, None
            if arrived is not None:
                self._before(*arrived)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_delayed:
            self._arrived = number, frame
        else:
            self._before(number, frame)
