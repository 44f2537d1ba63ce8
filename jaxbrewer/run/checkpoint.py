"""When checkpoints are made, and how they are saved and read: Orbax, asynchronous and atomic."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import json
import logging
import re
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ..checksums import checksums, leaves_by_path
from ..data.position import Position, without_entries
from ..errors import UsageError
from ..forward.model import PyTree
from ..step.state import TrainState, copy_arrays
from .retention import CheckpointInfo

DIRECTORY = "checkpoints"
"""Where the checkpoints of a run are, one directory per update."""

DAMAGED = "damaged"
"""Where those are put that cannot be read."""


class LoadedCheckpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        step: The update it follows.
        state: The whole train state.
        position: Where the data go on, in this process.
        scheduled: Whether the plan asked for it, or only an interruption did.
    """

    step: int
    state: TrainState
    position: Position
    scheduled: bool


class CheckpointStore:
    """The checkpoints of a run: one directory per update, there as soon as it is complete.

    A checkpoint holds ``student`` (weights and mutable state, loadable alone), ``training`` (the
    rest of the train state), and in its metadata the position in the data and a checksum of each
    array. In a single process, saving only copies the arrays on their devices; a thread writes
    them. With several, Orbax's barriers keep it in the main thread.

    Args:
        run: The directory of the run.
    """

    def __init__(self, run: Path):
        self._run, self._directory = run, run.absolute() / DIRECTORY
        self._directory.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._running: list[concurrent.futures.Future[None]] = []
        self._entries = {entry.step: entry for entry in map(self._entry, self._on_disk())}
        self._failed, self._complaint = False, ""

    def save(
        self, step: int, state: TrainState, position: Position, *, scheduled: bool = True
    ) -> None:
        """Starts saving; waits first for the save before this one.

        A disk that takes nothing is warned of once; the training goes on.
        """
        self.wait()
        last = max(
            self._entries.values(), key=lambda entry: entry.step, default=CheckpointInfo(0, 0)
        )
        entry = CheckpointInfo(step, last.number + scheduled, scheduled)
        positions = _of_all_processes(position)
        self._submit(self._write, entry, copy_arrays(_parts(state)), positions)

    def retain(self, choose: Callable[[Sequence[CheckpointInfo]], set[int]]) -> None:
        """Removes the checkpoints that ``choose`` does not choose, once all saves are complete."""
        self._submit(self._remove_all_but, choose)

    def steps(self) -> list[int]:
        """The steps that are completely saved, ascending."""
        self.wait()
        return self._on_disk()

    def load(self, step: int, like: TrainState) -> LoadedCheckpoint:
        """What was saved after update ``step``.

        Args:
            step: One of :meth:`steps`.
            like: A state of the same structure, which also says where each array shall live.

        Raises:
            DamagedError: It cannot be read, or not as it was written.
            UsageError: It is of a state of another structure.
        """
        parts = _parts(like)
        record = _read_record(self._directory / str(step))
        _refuse_misfit(step, record["arrays"], _described(parts))
        loaded = _read(self._directory / str(step), jax.tree.map(_abstract, parts))
        _refuse_changed(record["arrays"], loaded)
        position = _of_this_process(record["positions"])
        return LoadedCheckpoint(step, _state_of(loaded, like), position, record["scheduled"])

    def restore(self, like: TrainState) -> LoadedCheckpoint | None:
        """The newest checkpoint that can be read; ``None`` if there are none.

        Those that cannot are put aside with a warning.

        Raises:
            UsageError: There are some, but none can be read, or it is of another structure.
        """
        reasons = []
        for step in reversed(self.steps()):
            try:
                return self.load(step, like)
            except DamagedError as error:
                reasons.append(f"update {step}: {error}")
                aside = self._put_aside(step)
                warnings.warn(
                    f"The checkpoint of update {step} is damaged ({error}). It is passed over, and "
                    f"now lies in {aside}.",
                    stacklevel=3,
                )
        if reasons:
            raise UsageError(
                f"No checkpoint of {self._run} can be read ({'; '.join(reasons)}). To begin anew, "
                "choose another output_dir or set overwrite=True."
            )
        return None

    def poll(self) -> None:
        """Warns, once, if something could not be written."""
        if self._complaint:
            complaint, self._complaint = self._complaint, ""
            warnings.warn(complaint, stacklevel=3)

    def wait(self) -> None:
        """Waits until everything is saved that shall be."""
        while self._running:
            self._running.pop(0).result()
        self.poll()

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

    def _write(self, entry: CheckpointInfo, parts: PyTree, positions: list[Position]) -> None:
        path = self._directory / str(entry.step)
        sums, arrays = checksums(parts), _described(parts)
        record: dict[str, Any] = {
            **dataclasses.asdict(entry),
            "positions": positions,
            "arrays": {name: [*described, sums[name]] for name, described in arrays.items()},
        }
        record["crc"] = _crc(record)
        with _without_noise():
            reason = self._try_to_write(path, parts, record)
            if reason is not None:
                _let_go()
        self._remove_unfinished()
        if reason is None:
            self._entries[entry.step] = entry
        elif not self._failed:
            self._complaint = (
                f"The checkpoint of update {entry.step} could not be written to "
                f"{self._directory}: {reason}. The training goes on and tries again at the next "
                f"one; complete checkpoints: {self._on_disk() or 'none'}."
            )
        self._failed = reason is not None

    def _try_to_write(self, path: Path, parts: PyTree, record: dict[str, Any]) -> str | None:
        """Writes a checkpoint; what the operating system says if it refuses."""
        try:
            if path.exists():
                self._put_aside(int(path.name))
            ocp.save_checkpointables(path, parts, custom_metadata={"jaxbrewer": record})
        except (OSError, ValueError) as error:
            reason = _reason_on_disk(error)
            if reason is None:
                raise
            return reason
        return None

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for unfinished in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)

    def _remove_all_but(self, choose: Callable[[Sequence[CheckpointInfo]], set[int]]) -> None:
        kept = choose(list(self._entries.values()))
        for step in self._entries.keys() - kept:
            del self._entries[step]
            if jax.process_index() == 0:  # renamed first: half a checkpoint never bears its name
                doomed = self._directory / f"{step}.orbax-checkpoint-tmp-removed"
                with contextlib.suppress(OSError):
                    (self._directory / str(step)).rename(doomed)
                    shutil.rmtree(doomed)

    def _put_aside(self, step: int) -> Path:
        aside = self._run / DAMAGED / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "-again")
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(aside)
        self._entries.pop(step, None)
        return aside

    def _on_disk(self) -> list[int]:
        return _steps_in(self._directory)

    def _entry(self, step: int) -> CheckpointInfo:
        try:
            record = _read_record(self._directory / str(step))
        except DamagedError:
            return CheckpointInfo(step, 0)
        return CheckpointInfo(step, record["number"], record["scheduled"])


class DamagedError(Exception):
    """A checkpoint that cannot be read, or not as it was written."""


def load_student(directory: str | Path, step: int | None = None) -> dict[str, PyTree]:
    """The student's weights from a run, without its optimizer or its teacher.

    Args:
        directory: A run's ``output_dir``.
        step: The update after which they were saved; ``None`` takes the last checkpoint that can
            be read, with a warning about damaged ones after it.

    Returns:
        ``{"params": ..., "state": ...}``, nested dicts of arrays.

    Raises:
        UsageError: There is no such checkpoint, or it is damaged.
    """
    root = Path(directory).absolute() / DIRECTORY
    if not root.is_dir():
        raise UsageError(f"{directory} holds no checkpoints of a run.")
    saved = _steps_in(root)
    if not saved or (step is not None and step not in saved):
        raise UsageError(f"{directory} has no checkpoint of step {step}; it has {saved}.")
    for chosen in reversed(saved) if step is None else [step]:
        try:
            record = _read_record(root / str(chosen))
            loaded = _read_student(root / str(chosen), record)
            _refuse_changed(record["arrays"], loaded)
            return {"state": {}, **loaded["student"]}
        except DamagedError as error:
            message = f"The checkpoint of update {chosen} in {directory} is damaged: {error}."
            if step is not None:
                raise UsageError(message) from None
            warnings.warn(message, stacklevel=2)
    raise UsageError(f"{directory} has no checkpoint that can be read.")


# -- what a checkpoint consists of ----------------------------------------------------------------


def _parts(state: TrainState) -> dict[str, PyTree]:
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    trainable, model_state = dict(rest.pop("trainable")), rest.pop("model_state")
    student = {"params": trainable.pop("student"), "state": model_state}
    return {"student": student, "training": {**rest, "trainable": trainable}}


def _state_of(parts: Mapping[str, PyTree], like: TrainState) -> TrainState:
    student, training = parts["student"], dict(parts["training"])
    trainable = {"student": student["params"], **training.pop("trainable")}
    return dataclasses.replace(like, trainable=trainable, model_state=student["state"], **training)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of an array, or of a saved one on the default device."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _described(parts: PyTree) -> dict[str, list[Any]]:
    return {
        name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves_by_path(parts).items()
    }


def _refuse_misfit(
    step: int, saved: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]]
) -> None:
    def shown(arrays: Mapping[str, list[Any]], name: str) -> str:
        return "{}{}".format(*arrays[name]) if name in arrays else "nothing"

    other = [
        f"{name} is {shown(saved, name)} there and {shown(wanted, name)} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name, [])[:2] != wanted.get(name)
    ]
    if other:
        more = f", and {len(other) - 3} more" if len(other) > 3 else ""
        raise UsageError(
            f"The checkpoint of update {step} is of another model or optimizer: "
            f"{'; '.join(other[:3])}{more}."
        )


def _refuse_changed(saved: Mapping[str, list[Any]], loaded: PyTree) -> None:
    changed = [name for name, value in checksums(loaded).items() if saved[name][2] != value]
    if changed:
        raise DamagedError(f"its checksum does not fit {', '.join(changed[:3])}")


def _crc(record: Mapping[str, Any]) -> int:
    rest = {name: value for name, value in record.items() if name != "crc"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


# -- several processes ----------------------------------------------------------------------------


def _of_all_processes(position: Position) -> list[Position]:
    if jax.process_count() == 1:
        return [position]
    text = np.frombuffer(json.dumps(position).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    gathered = multihost_utils.process_allgather(np.pad(text, (0, longest - len(text))))
    return [json.loads(bytes(row).rstrip(b"\0")) for row in gathered]


def _of_this_process(positions: list[Position]) -> Position:
    if len(positions) == jax.process_count():
        return positions[jax.process_index()]
    # Another number of processes: each reads another part of every batch, as many batches.
    return without_entries(positions[0], "checksum", "state")


# -- Orbax ----------------------------------------------------------------------------------------


def _steps_in(directory: Path) -> list[int]:
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def _read_record(path: Path) -> dict[str, Any]:
    record = _or_damaged(
        lambda: dict(ocp.checkpointables_metadata(path).custom_metadata["jaxbrewer"])
    )
    if record.get("crc") != _crc(record):
        raise DamagedError("its metadata has another checksum")
    return record


def _read(path: Path, template: Mapping[str, PyTree]) -> dict[str, PyTree]:
    def one(name: str) -> PyTree:
        return ocp.load_checkpointables(path, {name: template[name]})[name]

    return {name: _or_damaged(functools.partial(one, name)) for name in template}


def _read_student(path: Path, record: Mapping[str, Any]) -> dict[str, PyTree]:
    """The student in nested dicts, as nothing is known here of its structure."""
    saved = _or_damaged(lambda: ocp.checkpointables_metadata(path).metadata["student"])
    template = {"student": jax.tree.map(_abstract, saved)}
    known = {name for name in record["arrays"] if name.startswith("student/")}
    if leaves_by_path(template).keys() != known:
        raise DamagedError("its metadata lacks arrays")
    return _read(path, template)


def _or_damaged(read: Callable[[], Any]) -> Any:
    """What ``read`` gives; where it fails, one reason, and nothing of what Orbax says beside it."""
    with _without_noise(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except Exception as error:
            reason = _first_words(error.__cause__ or error)
        _let_go()
    raise DamagedError(reason)


def _first_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Orbax logs each failure many times, with tracebacks; we report it, once."""
    silent, hook = logging.Filter("nothing"), sys.unraisablehook
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for logger in loggers:
        logger.addFilter(silent)
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(silent)


def _let_go() -> None:
    """Waits for what Orbax leaves behind where it fails: tasks of other arrays, which complain."""
    gc.collect()
    time.sleep(0.2)


def _reason_on_disk(error: BaseException) -> str | None:
    """What the operating system says, if that is why a save failed."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = re.search(r"([^:]*) \[os_error_code=", str(error))
    return said[1].strip() if said else None
