"""Finds the cached outputs of a batch's examples, in memory or on disk."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..errors import UsageError
from ..forward.adaptors import Outputs
from .batch_widths import widths_of
from .examples import examples_of
from .keys import content_digests, keys_of, show_key
from .manifest import Manifest
from .record_layout import RecordLayout
from .records import content_check, decode, is_sound


class RecordReader(Protocol):
    """A source of records."""

    def read(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The record of each key, ``None`` where there is none, empty where it is damaged."""
        ...


class KeptRecords:
    """Checks records that a source returns, and keeps the first of them for later epochs.

    Args:
        source: The source of records.
        max_bytes: The most bytes to keep. Records beyond them are read from the source each time.
    """

    def __init__(self, source: RecordReader, max_bytes: int):
        self._source, self._room = source, max_bytes
        self._kept: dict[bytes, bytes] = {}

    def read(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The record of each key, ``None`` where there is none, empty where it is damaged."""
        keys = list(keys)
        absent = [key for key in keys if key not in self._kept]
        found: dict[bytes, bytes | None] = {}
        for key, record in zip(absent, self._source.read(absent) if absent else (), strict=True):
            found[key] = b"" if record is not None and not is_sound(record) else record
        records = [found[key] if key in found else self._kept[key] for key in keys]
        for key, record in found.items():
            if record and len(record) <= self._room:
                self._kept[key] = record
                self._room -= len(record)
        return records


class OutputSource(Protocol):
    """A source of a teacher's outputs by example."""

    def outputs(self, batch: Any) -> Outputs:
        """The teacher's outputs for a batch's examples, as host arrays."""
        ...


class OutputLookup:
    """Returns the cached outputs of any batch of known examples.

    Args:
        manifest: Describes the records and their keys.
        layout: The manifest's layout.
        records: The source of records.
        name: The name of the cache in messages.
        number: The index among several teachers, for batches with a part for each.
    """

    def __init__(
        self,
        manifest: Manifest,
        layout: RecordLayout,
        records: RecordReader,
        name: str,
        number: int | None,
    ):
        self._manifest, self._layout, self._records = manifest, layout, records
        self._name, self._number = name, number

    def outputs(self, batch: Any) -> Outputs:
        """The teacher's outputs for a batch's examples, as host arrays.

        Raises:
            UsageError: An example is not in the cache, has changed since the cache was built, or
                is damaged on disk.
        """
        examples = examples_of(batch, self._number)
        content = content_digests(examples.inputs, self._manifest.inputs)
        ids = examples.ids if self._manifest.keys == "example_id" else None
        if ids is None and self._manifest.keys == "example_id":
            raise UsageError(
                f"{self._name} identifies examples by 'example_id', which this batch lacks."
            )
        keys = keys_of(content if ids is None else ids)
        found = zip(keys, self._records.read(keys), content[:, 0], strict=True)
        checked = [self._checked(*row) for row in found]
        widths = widths_of(self._manifest.widths, examples.inputs)
        return examples.join(decode(checked, self._layout, widths))

    def _checked(self, key: bytes, record: bytes | None, check: Any) -> bytes:
        if record is None:
            by_content = (
                "examples are identified by their content, which padding without an "
                "'attention_mask', augmentation or another tokenizer changes: give batches an "
                "'example_id', or build it on these data"
            )
            by_id = self._manifest.keys == "example_id"
            raise UsageError(
                f"{show_key(key)} is not in {self._name}: "
                f"{'build it on these data' if by_id else by_content}."
            )
        if not record:
            raise UsageError(
                f"{show_key(key)} is damaged in {self._name}: `jaxbrewer cache verify` lists all "
                "damage; remove the cache and build it again."
            )
        if content_check(record) != int(check):
            raise UsageError(
                f"{show_key(key)} is not the one that {self._name} was built from: the teacher's "
                "inputs differ. Build it again for these data; a batch_postprocessor must not be "
                "random."
            )
        return record


def with_outputs(batch: Any, cache: OutputSource | Sequence[OutputSource | None]) -> dict[str, Any]:
    """Adds the teacher's outputs for a batch's examples to it, under ``"teacher_cache"``.

    A step runs no teacher on such a batch. Order and composition of batches do not matter, so any
    loop over any loader may use this.

    Args:
        batch: A batch as the teacher would get it.
        cache: The cache; for several teachers a sequence, with ``None`` for a teacher that runs.

    Raises:
        UsageError: As :meth:`OutputLookup.outputs`.
    """
    if not isinstance(batch, Mapping):
        batch = {"teacher": batch, "student": batch}
    if not isinstance(cache, Sequence):
        return {**batch, "teacher_cache": cache.outputs(batch)}
    found = tuple(None if one is None else one.outputs(batch) for one in cache)
    return {**batch, "teacher_cache": found}
