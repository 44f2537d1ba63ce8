"""The writing half of a build: records in the background, progress, and the manifest."""

import concurrent.futures
import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np

from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..json_files import is_there, read_json, write_json
from . import measure
from .batch_widths import chosen_paths, common_paths, shared_paths
from .database import RecordDatabase
from .examples import BatchExamples
from .keys import keys_of, show_key
from .manifest import FILE, Manifest, Storage
from .record_layout import RecordLayout, layout_of
from .records import content_check, decode, encode, is_sound

RECORDS = "records"
_COMMIT_BYTES, _COMMIT_EXAMPLES, _AHEAD = 1 << 23, 4096, 2


class Progress(TypedDict):
    """The file in which each process of a build notes its part.

    Attributes:
        done: Whether all of the part is stored.
        sums: The fields of :class:`~jaxbrewer.cache.measure.Sums`.
        places: For each mask, the paths of teacher inputs that were as wide in all batches.
    """

    done: bool
    sums: dict[str, float]
    places: dict[str, list[str]]


class CacheWriter:
    """Packs and writes records in the background, and skips those that exist.

    Args:
        root: The directory.
        started: The manifest of a new cache.
        found: The manifest of an earlier build, if there is one.
        storage: How numbers are stored.
        part: Index of this process, and number of processes.
    """

    def __init__(
        self,
        root: Path,
        started: Manifest,
        found: Manifest | None,
        storage: Storage,
        part: tuple[int, int],
    ):
        self._root, self._manifest, self._storage, self._part = root, started, storage, part
        self._records = RecordDatabase(root / RECORDS, create=True)
        self._there = set(self._records.keys())
        if found is None and self._there and not is_there(root / FILE):
            raise UsageError(
                f"{root} has records but no {FILE}, so that their origin is unknown: remove it."
            )
        self._new: dict[bytes, int] = {}
        self._layout: RecordLayout | None = None
        if found is not None and found.layout:
            self._manifest = found
            self._layout = found.record_layout(root)
        before = self._progress(part[0])
        self._sums = measure.Sums().merged(before["sums"])
        self._places = before["places"]
        self._start = time.monotonic()
        self._worker = concurrent.futures.ThreadPoolExecutor(1)
        self._running: list[concurrent.futures.Future[None]] = []
        self._pending: dict[bytes, bytes] = {}
        self._commits: list[Any] = []

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._worker.shutdown()
        if kind is not None:  # records that are computed are not lost
            with contextlib.suppress(UsageError):
                self._commit()
                self._wait()

    def missing(self, ids: np.ndarray | None, content: np.ndarray) -> list[int]:
        """The rows of a batch that have no record yet."""
        keys = keys_of(content if ids is None else ids)
        kind = "content" if ids is None else "example_id"
        if self._manifest.keys not in ("", kind):
            raise UsageError(
                f"The cache identifies examples by {self._manifest.keys}, this batch by {kind}."
            )
        self._manifest = dataclasses.replace(self._manifest, keys=kind)
        known = [key for key in keys if key in self._there and key not in self._new]
        for key, record in zip(known, self._records.read(known), strict=True):
            if record is not None and is_sound(record):
                self._new[key] = content_check(record)
            else:  # damaged: it is written again
                self._there.discard(key)
        rows = []
        for row, key in enumerate(keys):
            check = int(content[row, 0])
            if self._new.setdefault(key, check) != check:
                raise UsageError(
                    f"{show_key(key)} has two different contents: the data have changed since the "
                    f"build of {self._root} began, or the same 'example_id' stands for two "
                    "examples."
                )
            if key not in self._there:
                self._there.add(key)
                rows.append(row)
        return rows

    def add(
        self,
        outputs: Outputs,
        inputs_T: Any,
        examples: BatchExamples,
        content: np.ndarray,
        rows: list[int],
    ) -> None:
        """Takes a batch's outputs, which the device may still compute.

        Args:
            outputs: The outputs.
            inputs_T: The teacher's inputs, of the same width.
            examples: The examples in them.
            content: Their digests.
            rows: Which of them to store.
        """
        half = self._storage.kind != "full"
        layout = layout_of(outputs, half=half, bits=self._storage.bits)
        if self._layout is not None and not self._layout.holds_as(layout):
            raise UsageError(
                f"The teacher cache {self._root} was started with {self._layout.names}, not "
                f"with {layout.names}: resume it with the same outputs, or remove it."
            )
        if self._layout is None:
            self._layout = layout
            self._manifest = dataclasses.replace(self._manifest, layout=self._layout.to_dict())
            self._save_manifest()
        self._places = common_paths(self._places, outputs, inputs_T)
        if not is_there(self._progress_file(self._part[0])):
            self._save_progress(done=False)
        keys = keys_of(content if examples.ids is None else examples.ids)
        job = self._worker.submit(
            self._keep, outputs, examples, self._layout, content[:, 0], keys, rows
        )
        self._running.append(job)
        while len(self._running) > _AHEAD:
            self._running.pop(0).result()

    def finish(self) -> Manifest:
        """Waits until all records are on disk; completes the manifest if all parts have ended."""
        for job in self._running:
            job.result()
        self._commit()
        self._wait()
        if self._layout is None and not self._there:
            raise UsageError("There is nothing to cache: the dataloader has no batches.")
        self._save_progress(done=True)
        manifest = dataclasses.replace(Manifest.read(self._root), keys=self._manifest.keys)
        manifest.require_built_from(
            self._root, self._manifest.fingerprints, self._manifest.settings
        )
        parts = [self._progress(index) for index in range(self._part[1])]
        if not all(part["done"] for part in parts):
            return manifest
        sums = measure.Sums()
        for part in parts:
            sums = sums.merged(part["sums"])
        manifest = dataclasses.replace(
            manifest,
            widths=chosen_paths(shared_paths([part["places"] for part in parts])),
            complete=True,
            examples=len(self._records.keys()),
            report=sums.report(),
        )
        manifest.write(self._root)
        return manifest

    def _keep(
        self,
        outputs: Outputs,
        examples: BatchExamples,
        layout: RecordLayout,
        checks: np.ndarray,
        keys: list[bytes],
        rows: list[int],
    ) -> None:
        outputs = examples.split(jax.device_get(outputs))
        if len(rows) < len(keys):
            outputs = jax.tree.map(lambda leaf: leaf[np.array(rows)], outputs)
        records = encode(outputs, layout, checks[rows])
        measure.add_errors(self._sums, outputs, decode(records, layout), layout)
        positions, float32 = measure.sizes_of(outputs, layout)
        self._sums.positions += positions
        self._sums.float32_bytes += float32
        self._sums.examples += len(rows)
        self._sums.record_bytes += sum(map(len, records))
        self._pending |= {keys[row]: record for row, record in zip(rows, records, strict=True)}
        size = sum(map(len, self._pending.values()))
        if size > _COMMIT_BYTES or len(self._pending) >= _COMMIT_EXAMPLES:
            self._commit()

    def _commit(self) -> None:
        if self._pending:
            self._wait()
            self._commits.append(self._records.write(self._pending))
            self._pending = {}

    def _wait(self) -> None:
        commits, self._commits = self._commits, []
        for commit in commits:
            self._records.wait(commit)
        if commits:
            self._save_progress(done=False)

    def _progress_file(self, index: int) -> Path:
        return self._root / f"part-{index}-of-{self._part[1]}.json"

    def _progress(self, index: int) -> Progress:
        path = self._progress_file(index)
        if not is_there(path):
            return {"done": False, "sums": {}, "places": {}}
        return read_json(path, Progress)

    def _save_progress(self, *, done: bool) -> None:
        now = time.monotonic()
        self._sums.seconds += now - self._start
        self._start = now
        sums = dataclasses.asdict(self._sums)
        progress: Progress = {"done": done, "sums": sums, "places": self._places}
        write_json(self._progress_file(self._part[0]), progress)

    def _save_manifest(self) -> None:
        if not is_there(self._root / FILE):
            self._manifest.write(self._root)
