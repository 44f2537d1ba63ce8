"""How far a training is: a bar on a terminal, lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressDisplay:
    """A bar on a terminal or in a notebook; elsewhere a line every ten seconds, and at the end.

    Args:
        total_steps: Updates in all.
        lead: So many updates the host runs ahead of the device. They and the one before them,
            which waited for a compilation, do not count for the speed.
    """

    _SECONDS = 10.0
    _ENOUGH = 1.0
    """Seconds over which a speed is worth telling."""

    def __init__(self, total_steps: int, *, lead: int = 0):
        console = Console(stderr=True)
        self._total, self._lead, self._left_out = total_steps, lead, 0
        self._step, self._loss = 0, float("nan")
        self._updates, self._examples, self._seconds = 0, 0, 0.0
        self._at = self._last_line = time.monotonic()
        self._printed = 0
        self._bar: Progress | None = None
        if console.is_terminal or console.is_jupyter:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=total_steps, shown="compiling")
            self._bar.start()

    def advance(
        self, step: int, examples: int, at: float, loss: float, *, compiled: bool = False
    ) -> None:
        """Takes an update that is done.

        Args:
            step: Its number.
            examples: Examples in it.
            at: When it was handed to the device, by ``time.monotonic``.
            loss: Its loss.
            compiled: Whether it waited for a compilation.
        """
        if compiled:
            self._left_out = self._lead
        elif self._left_out:
            self._left_out -= 1
        else:
            self._updates += 1
            self._examples += examples
            self._seconds += at - self._at
        self._step, self._at, self._loss = step, at, loss
        if self._bar is not None:
            shown = f"loss {loss:.4f}  {self._rate()[0]}"
            self._bar.update(self._task, completed=step, shown=shown)
        elif at - self._last_line >= self._SECONDS:
            self._line()

    def say(self, line: str) -> None:
        """Shows a line that stays."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Shows the last state."""
        if self._bar is not None:
            self._bar.stop()
        elif self._step != self._printed:
            self._line()

    def _rate(self) -> tuple[str, str]:
        """Speed and time left, as far as they can be told."""
        if not self._updates or (self._seconds < self._ENOUGH and self._step < self._total):
            return "", ""
        left = self._seconds / self._updates * (self._total - self._step)
        speed = self._examples / max(self._seconds, 1e-9)
        return f"{speed:.0f} examples/s", f"{left:.0f} s left"

    def _line(self) -> None:
        self._last_line, self._printed = self._at, self._step
        parts = [f"step {self._step}/{self._total}", f"loss {self._loss:.4f}", *self._rate()]
        print("  ".join(filter(None, parts)), file=sys.stderr, flush=True)
