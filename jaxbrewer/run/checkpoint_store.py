"""The checkpoints of a run on disk: saved in the background, removed, read back with fallback."""

import concurrent.futures
import contextlib
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ..data.position import Position, without_entries
from ..devices.processes import gather_json
from ..errors import UsageError, escaped, reason_of, setting
from ..forward.model import PyTree
from ..step.state import TrainState, copy_arrays
from .checkpoint_record import (
    DamagedError,
    make_record,
    parts_of,
    refuse_changed_arrays,
    refuse_other_structure,
    state_from,
)
from .orbax_files import UNFINISHED, read_parts, read_record, write_checkpoint
from .retention import CheckpointInfo

CHECKPOINTS = "checkpoints"
"""In a run directory, the checkpoints: one directory per step."""

DAMAGED = "damaged"
"""In a run directory, checkpoints that cannot be read."""


class LoadedCheckpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: The optimizer step after which it was saved.
        state: The whole train state.
        position: Where this process resumes reading its data.
        scheduled: Whether the plan asked for it; otherwise an interruption did.
    """

    step: int
    state: TrainState
    position: Position
    scheduled: bool


class CheckpointStore:
    """The checkpoints of a run: one directory per step, which appears when it is complete.

    A checkpoint holds ``student`` (weights and mutable state, loadable alone), ``training`` (the
    rest of the train state), and in its metadata the position in the data and a checksum of each
    array. In a single process, saving only copies the arrays on their devices; a thread writes
    them. With several, Orbax's barriers keep it in the main thread.

    Args:
        run: The run directory.
    """

    def __init__(self, run: Path):
        self._run, self._directory = run, run.absolute() / CHECKPOINTS
        self._directory.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._running: list[concurrent.futures.Future[None]] = []
        self._saved = {info.step: info for info in map(self._info, self._on_disk())}
        self._failed, self._warning = False, ""

    def save(
        self, step: int, state: TrainState, position: Position, *, scheduled: bool = True
    ) -> None:
        """Starts saving; waits first for the save before this one.

        If the disk refuses, a warning says so once and the training continues.
        """
        self.wait()
        last = max(self._saved.values(), key=lambda info: info.step, default=CheckpointInfo(0, 0))
        info = CheckpointInfo(step, last.number + scheduled, scheduled)
        self._submit(self._write, info, copy_arrays(parts_of(state)), gather_json(position))

    def retain(self, choose: Callable[[Sequence[CheckpointInfo]], set[int]]) -> None:
        """Once all saves are complete, removes the checkpoints that ``choose`` does not return."""
        self._submit(self._remove_all_but, choose)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        self.wait()
        return self._on_disk()

    def load(self, step: int, like: TrainState) -> LoadedCheckpoint:
        """Reads the checkpoint that was saved after ``step``.

        Args:
            step: One of :meth:`steps`.
            like: A state of the same structure, whose arrays say where to place each array.

        Raises:
            DamagedError: It cannot be read, or not as it was written.
            UsageError: It holds a state of another structure.
        """
        path, parts = self._directory / str(step), parts_of(like)
        record = read_record(path)
        refuse_other_structure(record, parts)
        loaded = read_parts(path, parts)
        refuse_changed_arrays(record, loaded)
        position = _position_of_this_process(record["positions"])
        return LoadedCheckpoint(step, state_from(loaded, like), position, record["scheduled"])

    def restore(self, like: TrainState) -> LoadedCheckpoint | None:
        """Reads the newest checkpoint that can be read; ``None`` if there are none.

        Damaged ones after it are moved aside, with a warning.

        Raises:
            UsageError: None can be read, or the newest one holds a state of another structure.
        """
        reasons = []
        for step in reversed(self.steps()):
            try:
                return self.load(step, like)
            except DamagedError as error:
                reasons.append(f"step {step}: {error}")
                warnings.warn(
                    f"The checkpoint of step {step} is damaged ({escaped(str(error))}). It is "
                    f"skipped, and was moved to {self._move_aside_or_refuse(step)}.",
                    stacklevel=3,
                )
        if reasons:
            raise UsageError(
                f"No checkpoint of {self._run} can be read ({'; '.join(reasons)}). To start again, "
                f"choose another output_dir or give {setting('overwrite', True)}."
            )
        return None

    def wait(self) -> None:
        """Waits until everything is saved; warns, once, if something could not be written."""
        while self._running:
            self._running.pop(0).result()
        if self._warning:
            warning, self._warning = self._warning, ""
            warnings.warn(warning, stacklevel=3)

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def _submit(self, task: Callable[..., None], *arguments: Any) -> None:
        if jax.process_count() == 1:
            self._running.append(self._worker.submit(task, *arguments))
        else:
            task(*arguments)

    def _write(self, info: CheckpointInfo, parts: PyTree, positions: list[Position]) -> None:
        reason = self._try_to_write(info, parts, positions)
        self._remove_unfinished()
        if reason is None:
            self._saved[info.step] = info
        elif not self._failed:
            self._warning = (
                f"The checkpoint of step {info.step} could not be written to {self._directory}: "
                f"{reason}. The training continues and tries again at the next one; complete "
                f"checkpoints: {self._on_disk() or 'none'}."
            )
        self._failed = reason is not None

    def _try_to_write(
        self, info: CheckpointInfo, parts: PyTree, positions: list[Position]
    ) -> str | None:
        path, record = self._directory / str(info.step), make_record(info, parts, positions)
        try:
            if path.exists():
                self._move_aside(info.step)
        except OSError as error:
            return reason_of(error)
        return write_checkpoint(path, parts, record)

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for unfinished in self._directory.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(unfinished, ignore_errors=True)

    def _remove_all_but(self, choose: Callable[[Sequence[CheckpointInfo]], set[int]]) -> None:
        kept = choose(list(self._saved.values()))
        for step in self._saved.keys() - kept:
            del self._saved[step]
            if jax.process_index() == 0:  # renamed first, so that half a checkpoint has no number
                doomed = self._directory / f"{step}{UNFINISHED}-removed"
                with contextlib.suppress(OSError):
                    (self._directory / str(step)).rename(doomed)
                    shutil.rmtree(doomed)

    def _move_aside(self, step: int) -> Path:
        aside = self._run / DAMAGED / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "-again")
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(aside)
        self._saved.pop(step, None)
        return aside

    def _move_aside_or_refuse(self, step: int) -> Path:
        try:
            return self._move_aside(step)
        except OSError as error:
            raise UsageError(
                f"The checkpoint of step {step} in {self._run} is damaged, and cannot be moved to "
                f"{DAMAGED}: {reason_of(error)}."
            ) from None

    def _on_disk(self) -> list[int]:
        return steps_in(self._directory)

    def _info(self, step: int) -> CheckpointInfo:
        try:
            record = read_record(self._directory / str(step))
        except DamagedError:
            return CheckpointInfo(step, 0)
        return CheckpointInfo(step, record["number"], record["scheduled"])


def steps_in(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, ascending."""
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if _STEP.fullmatch(name))


_STEP = re.compile("0|[1-9][0-9]{0,17}")


def _position_of_this_process(positions: list[Position]) -> Position:
    if len(positions) == jax.process_count():
        return positions[jax.process_index()]
    # With another number of processes, each reads other rows of every batch, but as many batches.
    return without_entries(positions[0], "checksum", "state")
