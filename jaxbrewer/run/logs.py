"""Append-only files: lines of JSON and TensorBoard's events, truncated where a run resumes."""

import json
import os
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams

from ..errors import UsageError, reason_of
from ..json_files import conform, is_there, parse_json, replace_file


class AppendOnly:
    """A file that is appended to and loses nothing to a full disk.

    Data that cannot be written stay in memory and are written with the next data; a warning says
    so once.

    Args:
        path: The file, created with its directory if missing.

    Raises:
        UsageError: It cannot be opened.
    """

    def __init__(self, path: Path):
        self._path, self._pending, self._failed = path, b"", False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be written: {reason_of(error)}.") from None

    def write(self, data: bytes) -> None:
        """Appends ``data``, at once."""
        self._pending += data
        try:
            while self._pending:
                written = os.write(self._file, self._pending)
                self._pending = self._pending[written:]
        except OSError as error:
            if not self._failed:
                self._failed = True
                warnings.warn(
                    f"{self._path} could not be written: {error.strerror}. The training continues; "
                    "the missing data stay in memory and are written once that is possible.",
                    stacklevel=4,
                )
        else:
            self._failed = False

    def close(self) -> None:
        """Tries once more to write missing data, and closes the file."""
        self.write(b"")
        os.close(self._file)


class JsonLines:
    """A file of JSON objects, one a line, each with the optimizer step (``"step"``) it belongs to.

    Args:
        path: The file.
        last_step: Rows of later steps, and rows that are incomplete or damaged, are removed;
            ``None`` reads nothing.

    Attributes:
        rows: The rows that were in the file.
    """

    def __init__(self, path: Path, last_step: int | None = None):
        self.rows: list[dict[str, Any]] = []
        if last_step is not None and is_there(path):
            try:
                self._cut(path, last_step)
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
        self._file = AppendOnly(path)

    def _cut(self, path: Path, last_step: int) -> None:
        """Keeps the rows up to ``last_step``, without those that are damaged or repeat a step."""
        kept, step = [], 0
        data = path.read_bytes()
        for line in data.splitlines(keepends=True):
            row = _parsed(line)
            if row is not None and step < row["step"] <= last_step:
                step = row["step"]
                self.rows.append(row)
                kept.append(line)
        good = b"".join(kept)
        if data.startswith(good):
            os.truncate(path, len(good))
        else:
            replace_file(path, good)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends ``rows``, at once."""
        self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of :class:`JsonLines` without those that are damaged.

    Raises:
        UsageError: It cannot be read.
    """
    if not is_there(path):
        return []
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    return [row for row in map(_parsed, lines) if row is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The row of a line; ``None`` if it is incomplete or damaged."""
    try:
        row = conform(parse_json(line, "the row"), dict[str, float], "the row")
    except UsageError:
        return None
    return row if line.endswith(b"\n") and type(row.get("step")) is int else None


class Events:
    """TensorBoard's events of one run: a file for each time it starts, named after the run.

    Args:
        log_dir: Their directory.
        run: The run's name, which ends the names of its files.
        last_step: Events of later steps are cut off; ``None`` keeps everything.
    """

    def __init__(self, log_dir: str | Path, run: str, last_step: int | None = None):
        if last_step is not None:
            for path in event_files(log_dir, run):
                _cut_events(path, last_step)
        seconds, fraction = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds}.{fraction:09}.{socket.gethostname()}.{run}"
        self._file = AppendOnly(Path(log_dir) / name)
        self._file.write(_record(Event(wall_time=time.time(), file_version="brain.Event:2")))

    def append(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Appends the scalars of some steps, as pairs of a step and its values by tag."""
        self._write(
            (
                step,
                Summary(
                    value=[
                        Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()
                    ]
                ),
            )
            for step, scalars in rows
        )

    def append_results(
        self, step: int, settings: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Appends the hyperparameters of a run, and its last scores under ``test/<name>``."""
        scores = {f"test/{name}": value for name, value in metrics.items()}
        summaries = hparams(dict(settings), scores)
        self._write((step, summary) for summary in summaries)
        self.append([(step, scores)])

    def _write(self, summaries: Iterable[tuple[int, Summary]]) -> None:
        now = time.time()
        events = (Event(wall_time=now, step=step, summary=summary) for step, summary in summaries)
        self._file.write(b"".join(map(_record, events)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def event_files(log_dir: str | Path, run: str) -> list[Path]:
    """The files with TensorBoard's events of one run.

    Raises:
        UsageError: The directory cannot be read.
    """
    if not is_there(log_dir):
        return []
    try:
        return [
            path
            for path in sorted(Path(log_dir).iterdir())
            if path.name.startswith("events.out.tfevents.")
            and path.name.endswith(f".{run}")
            and path.is_file()
        ]
    except OSError as error:
        raise UsageError(f"log_dir {str(log_dir)!r} cannot be read: {reason_of(error)}.") from None


def read_events(path: Path) -> Iterator[tuple[int, Event]]:
    """The complete events in a file, each with the offset where it ends."""
    data, start = path.read_bytes(), 0
    while len(data) >= start + 16:
        end = start + 16 + int.from_bytes(data[start : start + 8], "little")
        record = data[start + 12 : end - 4]
        if end > len(data) or masked_crc32c(record) != int.from_bytes(
            data[end - 4 : end], "little"
        ):
            return
        yield end, Event.FromString(record)
        start = end


def _record(event: Event) -> bytes:
    """An event as a TFRecord: length, checksum, data, checksum."""
    data = event.SerializeToString()
    length = len(data).to_bytes(8, "little")
    sums = [masked_crc32c(part).to_bytes(4, "little") for part in (length, data)]
    return length + sums[0] + data + sums[1]


def _cut_events(path: Path, last_step: int) -> None:
    kept = 0
    try:
        for end, event in read_events(path):
            if event.step > last_step:
                break
            kept = end
        os.truncate(path, kept)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
