"""The progress of a training: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

T = TypeVar("T")


def announce(line: str) -> None:
    """Prints what takes time before the first step, in the first of several processes."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


class PassProgress:
    """Lines about one pass over the data, every ten seconds, in the first of several processes.

    Args:
        what: What takes the time; it begins each line.
        batches: Number of batches of the pass; ``None`` if it is not known.
    """

    _SECONDS = 10.0

    def __init__(self, what: str, batches: int | None):
        self._what, self._batches, self._done = what, batches, 0
        self._start = self._last_line = time.monotonic()

    def counting(self, function: Callable[[Any], T]) -> Callable[[Any], T]:
        """``function`` of a batch, each call of which counts as a batch that begins.

        Calls after the pass print nothing.
        """

        def counted(batch: Any) -> T:
            now = time.monotonic()
            is_within = self._batches is None or self._done < self._batches
            if self._done and is_within and now - self._last_line >= self._SECONDS:
                self._line(now)
            self._done += 1
            return function(batch)

        return counted

    def _line(self, now: float) -> None:
        self._last_line = now
        total, left = "", ""
        if self._batches is not None:
            seconds = (now - self._start) / self._done * max(self._batches - self._done, 0)
            total, left = f" of {self._batches:,}", f", {duration(seconds)} left"
        announce(f"{self._what}: {self._done:,}{total} batches{left}")


class ProgressDisplay:
    """A bar on a terminal or in a notebook; elsewhere a line every ten seconds, and at the end.

    Both have the loss, the speed, the share of the time in which the devices waited for data, and
    the time left, in at most 80 columns.

    Args:
        total_steps: Number of steps in all.
        lead: Number of steps that the host runs ahead of the device. These and the step before
            them, which waited for a compilation, do not count for the speed.
    """

    _SECONDS = 10.0
    _ENOUGH = 1.0
    """Seconds after which a speed is worth showing."""
    _WIDTH_OF_TEXT = 60
    """Columns beside the bar and the two numbers of steps."""

    def __init__(self, total_steps: int, *, lead: int = 0):
        console = Console(stderr=True)
        self._total, self._lead, self._excluded = total_steps, lead, 0
        self._step, self._loss = 0, float("nan")
        self._steps, self._examples, self._seconds, self._waited = 0, 0, 0.0, 0.0
        self._at = self._last_line = time.monotonic()
        self._printed = 0
        self._bar: Progress | None = None
        if console.is_terminal or console.is_jupyter:
            room = console.width - self._WIDTH_OF_TEXT - 2 * len(f" {total_steps}")
            self._bar = Progress(
                BarColumn(bar_width=min(max(room, 4), 40)),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[shown]}"),
                console=console,
            )
            self._task = self._bar.add_task("", total=total_steps, shown="")
            self._bar.start()

    def advance(
        self,
        step: int,
        examples: int,
        at: float,
        loss: float,
        *,
        waited: float = 0.0,
        compiled: bool = False,
    ) -> None:
        """Takes a finished step.

        Args:
            step: Its number.
            examples: Number of examples in it.
            at: When it was dispatched to the device, by ``time.monotonic``.
            loss: Its loss.
            waited: Seconds in which its data were awaited.
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
            self._waited += waited
        self._step, self._at, self._loss = step, at, loss
        if self._bar is not None:
            self._bar.update(self._task, completed=step, shown="  ".join(self._facts()))
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

    def _facts(self) -> list[str]:
        """The loss; speed, data and time left once they are known."""
        loss = f"loss {self._loss:.4f}" if abs(self._loss) < 1000 else f"loss {self._loss:.2e}"
        if not self._steps or (self._seconds < self._ENOUGH and self._step < self._total):
            return [loss]
        seconds = max(self._seconds, 1e-9)
        left = self._seconds / self._steps * (self._total - self._step)
        return [
            loss,
            f"{self._examples / seconds:.0f} examples/s",
            f"data wait {min(self._waited / seconds, 1):.0%}",
            f"{duration(left)} left",
        ]

    def _line(self) -> None:
        self._last_line, self._printed = self._at, self._step
        line = "  ".join([f"step {self._step}/{self._total}", *self._facts()])
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in two units at most.

    Examples:
        >>> duration(0.2), duration(119), duration(125), duration(7260), duration(200_000)
        ('0 s', '119 s', '2 min', '2 h 1 min', '2 d 8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
