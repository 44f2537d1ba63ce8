"""A writer in a thread of its own, which may fail or hang."""

import queue
import threading
import warnings
from collections.abc import Callable, Mapping

from ...errors import on_one_line
from .writer import Rows, Settings, Tracker, Writer

PATIENCE = 60.0
"""Seconds that the end of a training waits for a writer."""

_Call = Callable[[], None]


class BackgroundWriter:
    """Calls a writer in a thread, so that a training neither waits for it nor ends with it.

    Args:
        name: Its name in warnings.
        writer: The writer.
    """

    def __init__(self, name: str, writer: Writer):
        self._name, self._writer = name, writer
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        # A daemon, so that a process whose writer hangs can end.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write_settings(self, settings: Settings) -> None:
        """Queues the settings."""
        self._queue(lambda: self._writer.write_settings(settings))

    def write_scalars(self, rows: Rows) -> None:
        """Queues the scalars."""
        self._queue(lambda: self._writer.write_scalars(rows))

    def write_results(self, step: int, settings: Settings, scores: Mapping[str, float]) -> None:
        """Queues the results if the writer takes them."""
        if isinstance(self._writer, Tracker):
            write = self._writer.write_results
            self._queue(lambda: write(step, settings, scores))

    def close(self, *, failed: bool = False) -> None:
        """Closes the writer after its last call, and waits for that for at most a minute."""
        self._queue(lambda: self._writer.close(failed=failed))
        self._calls.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._error = TimeoutError(f"it did not end within {PATIENCE:.0f} seconds")
        self._report()

    def _queue(self, call: _Call) -> None:
        self._report()
        if self._thread.is_alive():  # it ends with the first error
            self._calls.put(call)

    def _report(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            warn_of_failure(self._name, error)

    def _work(self) -> None:
        """Makes the calls, and none after one that fails."""
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:
                self._error = error
                return


def warn_of_failure(name: str, error: BaseException) -> None:
    """Warns that a tracker failed, which the training survives."""
    warnings.warn(
        f"The tracker {name} failed and is not used further: {type(error).__name__}: "
        f"{on_one_line(str(error))}. The training continues without it.",
        stacklevel=4,
    )
