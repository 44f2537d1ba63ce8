"""The checkpoints of a running training: saved, reported to the callback, kept, resumed."""

import functools
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import jax

from ..configs import TrainingConfig
from ..data.position import Position, without_entries
from ..devices.processes import broadcast_json
from ..errors import Preempted, UsageError, reason_of, setting
from ..step.state import TrainState
from .checkpoint_store import CheckpointStore, LoadedCheckpoint
from .directory import COMPLETED, RunDirectory
from .logs import JsonLines
from .retention import is_out_of_patience, kept_steps, needs_scores, require_best_metric


class Checkpointer:
    """Saves what a run needs to resume after any interruption.

    ``checkpoints.jsonl`` has a line for each checkpoint whose callback has returned, with its
    scores. A run that was interrupted between the two calls the callback again, and only then.

    Args:
        run: The run.
        config: Its settings.
    """

    def __init__(self, run: RunDirectory, config: TrainingConfig):
        self._run, self._config = run, config
        try:
            self._store = CheckpointStore(run.directory)
        except OSError as error:
            raise UsageError(
                f"{run.directory} cannot hold checkpoints: {reason_of(error)}."
            ) from None
        self._completed: JsonLines | None = None
        self._scores: dict[int, float] = {}
        self._done: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._store.close()
        finally:
            if self._completed is not None:
                self._completed.close()

    def restore(self, like: TrainState) -> LoadedCheckpoint | None:
        """The checkpoint that the run resumes from; ``None`` if it starts.

        Args:
            like: A state of the same structure, whose arrays say where to place each array.
        """
        saved = self._store.restore(like) if self._run.resumes else None
        if jax.process_index() == 0:
            last = None if not self._run.resumes else saved.step if saved else 0
            self._completed = JsonLines(self._run.directory / COMPLETED, last)
        for row in broadcast_json(self._completed.rows if self._completed else None):
            self._note_completed(row)
        if saved is None or not self._config.force_resume:
            return saved
        return saved._replace(position=without_entries(saved.position, "checksum"))

    def is_completed(self, saved: LoadedCheckpoint) -> bool:
        """Whether the callback of a restored checkpoint has returned, or none is due."""
        return saved.step in self._done or not saved.scheduled

    def save(self, step: int, state: TrainState, position: Position, *, is_planned: bool) -> None:
        """Starts saving."""
        self._store.save(step, state, position, scheduled=is_planned)

    def complete(
        self, step: int, scores: Mapping[str, float] | None, metrics: Mapping[str, float]
    ) -> None:
        """Records that the callback has returned, and removes checkpoints that are not kept.

        Args:
            step: The step of the checkpoint.
            scores: What the callback returned.
            metrics: The scalars of that step.

        Raises:
            UsageError: ``keep_best`` needs a metric that neither of them has.
        """
        row: dict[str, float] = {"step": step}
        if isinstance(scores, Mapping):
            row |= {name: float(value) for name, value in scores.items()}
        require_best_metric(self._config, {*row, *metrics} - {"step"})
        best = self._config.best_metric
        if needs_scores(self._config) and best is not None and best not in row:
            row[best] = metrics[best]
        if self._completed is not None:
            self._completed.append([row])
        self._note_completed(row)
        self._retain()

    def is_out_of_patience(self) -> bool:
        """Whether ``patience`` ends the training."""
        return is_out_of_patience(self._scores, self._config)

    def save_interrupted(self, step: int, state: TrainState, position: Position) -> None:
        """Saves after Ctrl-C, and reports where."""
        if step not in self._store.steps():
            self.save(step, state, position, is_planned=False)
        self._report_saved("Ctrl-C", step)

    def exit_preempted(self, step: int) -> None:
        """Ends the process after SIGTERM, once everything is saved.

        Raises:
            Preempted: The step is saved.
            SystemExit: With status 1, if it could not be saved.
        """
        if not self._report_saved("SIGTERM", step):
            raise SystemExit(1)  # a warning gives the reason
        raise Preempted(step)

    def end(self) -> None:
        """Removes checkpoints that only interruptions asked for, and waits for all saves."""
        self._retain(ended=True)
        self._store.wait()

    def last_kept(self) -> str:
        """A sentence on the last checkpoint, for error messages."""
        steps = self._store.steps()
        if not steps:
            return f"{self._run.directory} holds no checkpoint yet."
        return f"The checkpoint of step {steps[-1]} in {self._run.directory} is good."

    def _note_completed(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        self._done.add(step)
        if self._config.best_metric in row:
            self._scores[step] = row[str(self._config.best_metric)]

    def _report_saved(self, signal: str, step: int) -> bool:
        """Waits for the save of a step and reports it; whether it could be saved."""
        if step not in self._store.steps():
            return False
        if jax.process_index() == 0:
            print(
                f"{signal}: step {step} is saved in {self._run.directory}; "
                f"{setting('resume', True)} continues from there.",
                file=sys.stderr,
                flush=True,
            )
        return True

    def _retain(self, *, ended: bool = False) -> None:
        scores = dict(self._scores)
        self._store.retain(
            functools.partial(kept_steps, config=self._config, scores=scores, ended=ended)
        )
