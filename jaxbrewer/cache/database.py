"""The records of a cache on disk: TensorStore's OCDBT, a B+ tree of keys and values.

Commits are atomic, several processes may commit to one database, and any record is read by its
key. TensorStore comes with Orbax, which stores checkpoints in the same format.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError

_NODE_BYTES, _INLINE_BYTES = 1 << 16, 256


class RecordDatabase:
    """Bytes by key.

    Args:
        directory: The directory of the database.
        create: Whether to create it if it is missing.
    """

    def __init__(self, directory: str | Path, *, create: bool = False):
        import tensorstore as ts

        self._directory, self._tensorstore = Path(directory), ts
        if create:
            self._directory.mkdir(parents=True, exist_ok=True)
        elif not self._directory.is_dir():
            raise UsageError(f"{directory} is missing: the cache has no records.")
        spec: dict[str, Any] = {
            "driver": "ocdbt",
            "base": f"file://{self._directory.absolute()}/",
        }
        if create:
            spec["config"] = {
                "max_decoded_node_bytes": _NODE_BYTES,
                "max_inline_value_bytes": _INLINE_BYTES,
            }
        context = ts.Context({"cache_pool": {"total_bytes_limit": 1 << 28}})
        self._store = ts.KvStore.open(spec, context=context).result()

    def write(self, records: Mapping[bytes, bytes]) -> Any:
        """Starts an atomic commit; returns a future that is done when it is on disk."""
        transaction = self._tensorstore.Transaction(atomic=True)
        store = self._store.with_transaction(transaction)
        for key, record in records.items():
            store.write(key, record)
        return transaction.commit_async()

    def read(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The record of each key, read concurrently; ``None`` where there is none.

        Raises:
            ValueError: The database is damaged.
        """
        futures = [self._store.read(key) for key in keys]
        results = (future.result() for future in futures)
        return [result.value if result.state == "value" else None for result in results]

    def keys(self) -> Sequence[bytes]:
        """All keys, ascending.

        Raises:
            ValueError: The database is damaged.
        """
        return list(self._store.list().result())
