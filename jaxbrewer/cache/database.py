"""The records of a cache on disk: TensorStore's OCDBT, a B+ tree of keys and values.

Commits are atomic, several processes may commit to one database, and any record is read by its
key. TensorStore comes with Orbax, which stores checkpoints in the same format.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, reason_of

_NODE_BYTES, _INLINE_BYTES = 1 << 16, 256


class RecordDatabase:
    """Bytes by key.

    Args:
        directory: The directory of the database.
        create: Whether to create it if it is missing.
    """

    def __init__(self, directory: str | Path, *, create: bool = False):
        import tensorstore as ts

        self._directory, self._tensorstore = _made(Path(directory), create), ts
        spec: dict[str, Any] = {
            "driver": "ocdbt",  # a path in a URL would need quoting
            "base": {"driver": "file", "path": f"{self._directory}/"},
        }
        if create:
            spec["config"] = {
                "max_decoded_node_bytes": _NODE_BYTES,
                "max_inline_value_bytes": _INLINE_BYTES,
            }
        context = ts.Context({"cache_pool": {"total_bytes_limit": 1 << 28}})
        try:
            self._store = ts.KvStore.open(spec, context=context).result()
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"{directory} cannot be opened: {reason_of(error)}.") from None

    def write(self, records: Mapping[bytes, bytes]) -> Any:
        """Starts an atomic commit; pass the result to :meth:`wait`."""
        _empty_stale_lock(self._directory)
        transaction = self._tensorstore.Transaction(atomic=True)
        store = self._store.with_transaction(transaction)
        for key, record in records.items():
            store.write(key, record)
        return transaction.commit_async()

    def wait(self, commit: Any) -> None:
        """Waits until a commit is on disk.

        Raises:
            UsageError: It cannot be written; no record of it is stored.
        """
        try:
            commit.result()
        except (ValueError, OSError) as error:
            raise UsageError(
                f"{self._directory} cannot be written: {reason_of(error)}. All records before are "
                "stored: once there is room, build the cache again, which resumes the build."
            ) from None

    def read(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The record of each key, read concurrently; ``None`` where there is none.

        Raises:
            UsageError: The database is damaged.
        """
        futures = [self._store.read(key) for key in keys]
        try:
            results = [future.result() for future in futures]
        except (ValueError, OSError) as error:
            raise self._damaged(error) from None
        return [result.value if result.state == "value" else None for result in results]

    def keys(self) -> Sequence[bytes]:
        """All keys, ascending.

        Raises:
            UsageError: The database is damaged.
        """
        try:
            return list(self._store.list().result())
        except (ValueError, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UsageError:
        reason = " ".join(reason_of(error).split())[:200]
        return UsageError(
            f"{self._directory} is damaged ({reason}): remove the cache and build it again."
        )


def _empty_stale_lock(directory: Path) -> None:
    """Empties the lock file that a killed writer has left in a database.

    TensorStore writes the next root of the tree into this file and renames it. It does not cut a
    file that a killed writer has left, so that the end of a longer one would stay behind the root,
    which then counts as damaged. A writer that lives holds the lock, and its file is left alone.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    path = directory / "manifest.ocdbt.__lock"
    with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Without this, a writer could have renamed the file between the opening and the lock.
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)


def require_addressable(directory: Path) -> None:
    """Refuses a directory that TensorStore, and with it Orbax, would write elsewhere.

    Raises:
        UsageError: Its absolute path holds a backslash, which is taken for a slash.
    """
    for path in (directory.absolute(), directory.resolve()):
        if "\\" in str(path) and os.sep == "/":
            raise UsageError(
                f"{str(path)!r} holds a backslash, which TensorStore takes for a slash: choose "
                "another directory."
            )


def _made(directory: Path, create: bool) -> Path:
    """The absolute path of a directory that exists, or is made.

    Raises:
        UsageError: It is missing, cannot be made, or has a name that TensorStore changes.
    """
    try:
        require_addressable(directory)
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        elif not directory.is_dir():
            raise UsageError(f"{directory} is missing: the cache has no records.")
        return directory.resolve()
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {reason_of(error)}.") from None
