"""The progress of a training: a bar on a terminal, lines elsewhere."""

import sys
import time

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def announce(line: str) -> None:
    """Prints what takes time before the first step, in the first of several processes."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


class ProgressDisplay:
    """A bar on a terminal or in a notebook; elsewhere a line every ten seconds, and at the end.

    Args:
        total_steps: Number of steps in all.
        lead: Number of steps that the host runs ahead of the device. These and the step before
            them, which waited for a compilation, do not count for the speed.
    """

    _SECONDS = 10.0
    _ENOUGH = 1.0
    """Seconds after which a speed is worth showing."""

    def __init__(self, total_steps: int, *, lead: int = 0):
        console = Console(stderr=True)
        self._total, self._lead, self._excluded = total_steps, lead, 0
        self._step, self._loss = 0, float("nan")
        self._steps, self._examples, self._seconds = 0, 0, 0.0
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
            self._task = self._bar.add_task("", total=total_steps, shown="")
            self._bar.start()

    def advance(
        self, step: int, examples: int, at: float, loss: float, *, compiled: bool = False
    ) -> None:
        """Takes a finished step.

        Args:
            step: Its number.
            examples: Number of examples in it.
            at: When it was dispatched to the device, by ``time.monotonic``.
            loss: Its loss.
            compiled: Whether it waited for a compilation.
        """
        if compiled:
            self._excluded = self._lead
        elif self._excluded:
            self._excluded -= 1
        else:
            self._steps += 1
            self._examples += examples
            self._seconds += at - self._at
        self._step, self._at, self._loss = step, at, loss
        if self._bar is not None:
            shown = f"loss {loss:.4f}  {self._rate()[0]}"
            self._bar.update(self._task, completed=step, shown=shown)
        elif at - self._last_line >= self._SECONDS:
            self._line()

    def wait_for(self, step: int, what: str) -> None:
        """Shows what a step waits for: beside the bar, or as a line."""
        if self._bar is not None:
            self._bar.update(self._task, shown=what)
        else:
            print(f"step {step}/{self._total}  {what}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Shows the last step and ends the bar."""
        if self._bar is not None:
            self._bar.stop()
        elif self._step != self._printed:
            self._line()

    def _rate(self) -> tuple[str, str]:
        """Speed and time left; empty while they are unknown."""
        if not self._steps or (self._seconds < self._ENOUGH and self._step < self._total):
            return "", ""
        left = self._seconds / self._steps * (self._total - self._step)
        speed = self._examples / max(self._seconds, 1e-9)
        return f"{speed:.0f} examples/s", f"{left:.0f} s left"

    def _line(self) -> None:
        self._last_line, self._printed = self._at, self._step
        parts = [f"step {self._step}/{self._total}", f"loss {self._loss:.4f}", *self._rate()]
        print("  ".join(filter(None, parts)), file=sys.stderr, flush=True)
