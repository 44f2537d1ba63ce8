"""Writes the scalars of a training to metrics.jsonl, trackers and the terminal."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import jax
import numpy as np

from ..errors import UsageError
from ..objective.term_weights import TermWeight, describe
from .device_scalars import DeviceScalars, StepScalars
from .logs import JsonLines
from .progress import ProgressDisplay
from .results import hyperparameters
from .skipped_steps import SkippedStepWatch
from .trackers import Writer
from .uncounted_terms import UncountedTerms

T = TypeVar("T")

LEAD = 2
"""Number of steps that the host may be ahead of the device."""

METRICS = "metrics.jsonl"
"""The scalars of a run, one line of JSON per step."""


class StepLog:
    """Takes the scalars of every step and shows the progress of the training.

    Scalars are read ``LEAD`` steps late, so that the device never waits for the host, and written
    in blocks; they reach ``metrics.jsonl`` and the trackers (as ``scalar/<name>``) when read.

    Args:
        directory: The directory of ``metrics.jsonl``; ``None`` writes none.
        total_steps: Number of steps in all.
        writers: Opens the trackers; called in the first of several processes only.
        resumed_at: The step after which the training resumes: rows of later steps are removed, the
            others become the beginning of the history. ``None`` starts a run.
        show: Whether to show progress: a bar on a terminal, else a line every ten seconds.
        weights: The weight of each term of the loss before the first step.
    """

    _BLOCK, _SECONDS = 50, 1.0

    def __init__(
        self,
        directory: Path | None,
        total_steps: int,
        *,
        writers: Callable[[], Sequence[Writer]] = tuple,
        resumed_at: int | None = None,
        show: bool = True,
        weights: Mapping[str, TermWeight] = {},
    ):
        is_writer = jax.process_index() == 0
        self._file: JsonLines | None = None
        self._writers: Sequence[Writer] = ()
        self._history: list[dict[str, Any]] = []
        if directory is not None and is_writer:
            self._file = JsonLines(directory / METRICS, resumed_at)
            _warn_of_gaps(self._file.rows, resumed_at or 0, directory / METRICS)
            self._history.extend(self._file.rows)
        if is_writer:
            try:
                self._writers = writers()
            except UsageError:
                self._close(failed=True)
                raise
        self._weights = weights
        self._skips, self._uncounted = SkippedStepWatch(), UncountedTerms(weights)
        self._pending: list[_PendingStep] = []
        self._last_read = self._asked = time.monotonic()
        self._waited = 0.0
        self._shown = ProgressDisplay(total_steps, lead=LEAD) if show and is_writer else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.read()
                self._uncounted.end()
        finally:
            self._close(failed=kind is not None)
            if self._shown is not None:
                self._shown.close()

    def _close(self, *, failed: bool) -> None:
        if self._file is not None:
            self._file.close()
        for writer in self._writers:
            writer.close(failed=failed)

    def waits_for(self, step: int, what: str) -> None:
        """Shows what ``step`` waits for, such as a compilation."""
        if self._shown is not None:
            self._shown.wait_for(step, what)

    def report_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings of the training, as nested dicts, to the trackers."""
        flat = hyperparameters(settings)
        for writer in self._writers:
            writer.write_settings(flat)

    def report_weights(self) -> None:
        """Reports the effective weight of each term of the loss before the first step.

        Trackers get ``scalar/effective_weight_<term>`` at step 0; ``metrics.jsonl`` begins with
        step 1.
        """
        row = {f"effective_weight_{name}": w.effective for name, w in self._weights.items()}
        self._write([(0, row)], "scalar")
        if self._shown is not None and row:
            self._shown.say(describe(self._weights))

    def report_scores(self, step: int, scores: Mapping[str, float] | None) -> None:
        """Writes what a callback returned to the trackers, as ``validation/<name>``."""
        if isinstance(scores, Mapping):
            self._write([(step, scores)], "validation")

    def _write(self, rows: Iterable[tuple[int, Mapping[str, float]]], group: str) -> None:
        if not self._writers:
            return
        named = [
            (step, {f"{group}/{name}": value for name, value in scalars.items()})
            for step, scalars in rows
            if scalars
        ]
        for writer in self._writers if named else ():
            writer.write_scalars(named)

    def reading(self, groups: Iterable[T]) -> Iterator[T]:
        """Yields the batches of each step, and notes when they are asked for."""
        self._asked = time.monotonic()
        for group in groups:
            yield group
            self._asked = time.monotonic()

    def has_data(self) -> None:
        """Notes that the batches of the next step are on their devices.

        The time since they were asked for counts as waited for data if the devices have finished
        every step by then, which is asked without waiting for them.
        """
        is_idle = not self._pending or self._pending[-1].scalars.is_ready()
        self._waited = time.monotonic() - self._asked if is_idle else 0.0

    def add(
        self,
        step: int,
        examples: int,
        scalars: DeviceScalars[StepScalars],
        *,
        compiled: bool = False,
    ) -> None:
        """Takes the scalars of a step, still on the device, and reads those of ``LEAD`` steps ago.

        Args:
            step: Its number, from 1.
            examples: Number of examples in it.
            scalars: Its scalars.
            compiled: Whether it waited for a compilation.
        """
        if len(self._pending) >= LEAD:
            self._pending[-LEAD].scalars.read()
        now = time.monotonic()
        self._pending.append(_PendingStep(step, examples, now, self._waited, compiled, scalars))
        if now - self._last_read >= self._SECONDS or len(self._pending) >= self._BLOCK:
            self._read(self._pending[:-LEAD])
            self._pending = self._pending[-LEAD:]

    def read(self, last_step: int | None = None) -> None:
        """Reads and writes all pending scalars, up to ``last_step`` if given."""
        last = self._pending[-1].step if self._pending and last_step is None else last_step or 0
        self._read([pending for pending in self._pending if pending.step <= last])
        self._pending = []

    def history(self) -> dict[str, np.ndarray]:
        """Every scalar read so far: one array per name, one entry per step.

        A step without the scalar (one of another task) has NaN there.
        """
        names = dict.fromkeys(name for scalars in self._history for name in scalars)
        return {
            name: np.asarray([scalars.get(name, np.nan) for scalars in self._history])
            for name in names
        }

    def latest(self) -> dict[str, float]:
        """The scalars of the last step that was read."""
        return self._history[-1] if self._history else {}

    def _read(self, block: list["_PendingStep"]) -> None:
        self._last_read = time.monotonic()
        logged = [(pending.step, pending.scalars.read().metrics) for pending in block]
        rows = [{"step": step, **metrics} for step, metrics in logged]
        if self._file is not None:
            self._file.append(rows)
        self._write(logged, "scalar")
        self._history.extend(rows)
        for pending, row in zip(block, rows, strict=True):
            self._skips.see(pending.step, row)
            self._uncounted.see(row)
            if self._shown is not None:
                self._shown.advance(
                    pending.step,
                    pending.examples,
                    pending.at,
                    row["total_loss"],
                    waited=pending.waited,
                    compiled=pending.compiled,
                )


class _PendingStep(NamedTuple):
    """A step that is not written yet, its dispatch, and its wait for data."""

    step: int
    examples: int
    at: float
    waited: float
    compiled: bool
    scalars: DeviceScalars[StepScalars]


def _warn_of_gaps(rows: list[dict[str, Any]], steps: int, path: Path) -> None:
    missing = set(range(1, steps + 1)) - {row["step"] for row in rows}
    if missing:
        warnings.warn(
            f"{path} lacks {len(missing)} of the {steps} steps before the checkpoint, the first of "
            f"them step {min(missing)}: they were damaged, or lost when the machine stopped.",
            stacklevel=4,
        )
