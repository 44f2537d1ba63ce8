"""A lock on a run directory, so that two trainings never write one run."""

import contextlib
import json
import os
import socket
import time
import warnings
import weakref
from pathlib import Path
from typing import TypedDict

from ..errors import UsageError, escaped, reason_of
from ..json_files import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
"""In a run directory, the file that a training locks. It stays there when the training ends."""


class _Holder(TypedDict):
    """The content of the lock file: the process that holds the lock."""

    process: int
    host: str
    since: str


class DirectoryLock:
    """Holds a directory for this training until :meth:`release`, or the end of the process.

    The lock is the operating system's (``flock``), so that a process that is killed leaves none
    behind. It also excludes other hosts where the file system passes locks on (NFS version 4,
    Lustre mounted with ``flock``). Where the file system refuses locks, a warning says so. Forked
    processes, such as the workers of a loader, do not keep the lock.

    Args:
        directory: An existing directory.

    Raises:
        UsageError: Another training holds it, or it cannot be written.
    """

    def __init__(self, directory: Path):
        path = directory / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {reason_of(error)}.") from None
        self._release = weakref.finalize(self, os.close, descriptor)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UsageError(
                f"output_dir {str(directory)!r} is in use by another training{_shown(path)}: wait "
                "until it ends, or choose another output_dir."
            ) from None
        except OSError as error:
            warnings.warn(
                f"{escaped(str(path))} cannot be locked ({reason_of(error)}): make sure that no "
                "other training writes this output_dir.",
                stacklevel=4,
            )
        holder = _Holder(
            process=os.getpid(),
            host=socket.gethostname(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its description
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        _HELD.add(self)

    def release(self) -> None:
        """Releases the directory."""
        self._release()


def _shown(path: Path) -> str:
    try:
        holder = read_json(path, _Holder)
    except UsageError:
        return ""
    return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"


_HELD: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _release_in_child() -> None:
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
