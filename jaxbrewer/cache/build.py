"""Runs a teacher over the data once and keeps its outputs on disk."""

import concurrent.futures
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..adaptors import Adaptor, Outputs
from ..configs import DistillationConfig
from ..data import as_arrays, set_epoch
from ..errors import UsageError
from ..functional import as_model
from ..integrity import fingerprint
from ..precision import AS_GIVEN, Policy
from ..teachers import make_teacher_step, only_needed
from ..top_k import keep_top_k
from . import measure
from .keys import content_of, example_ids, keys_of, show_key, teacher_inputs
from .manifest import FILE, Manifest, Storage, write_json
from .records import Layout, check_of, decode, encode, layout_of
from .store import Records
from .widths import chosen_places, common_places, shared_places

RECORDS = "records"
_COMMIT_BYTES, _COMMIT_EXAMPLES, _AHEAD = 1 << 23, 4096, 2


def build_cache(
    directory: str | Path,
    teacher: Any,
    adaptor: Adaptor,
    dataloader: Any,
    *,
    storage: Storage | None = None,
    config: DistillationConfig | None = None,
    number: int | None = None,
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
    batch_postprocessor: Callable[[Any], Any] | None = None,
    fingerprints: Mapping[str, str] = {},
    part: tuple[int, int] = (0, 1),
) -> Manifest:
    """Keeps what a teacher says of every example of one pass over the data.

    Each example is kept by itself, under its ``example_id`` if batches have that entry (one whole
    number per example), otherwise under a digest of the teacher's inputs. While the device works
    on a batch, the one before is packed and written. A build that was interrupted goes on where it
    was when it is called again; a finished one is left as it is.

    Args:
        directory: Where to; new, empty, or that of the same cache.
        teacher: Any model that the distillers take.
        adaptor: Its adaptor; of what it returns, ``losses`` are not kept.
        dataloader: A loader that gives every example once; its first epoch is read.
        storage: How numbers are kept; by default in full.
        config: Says which layers to keep, those that its matches need; by default none.
        number: Which of several teachers this is, for batches with a part for each.
        precision: The dtypes of the teacher.
        args: Further keyword arguments of every call of the teacher.
        batch_postprocessor: ``batch -> batch``, applied before anything else.
        fingerprints: Further digests that a user of the cache shall have too, such as
            ``{"data": fingerprint(arrays)}``; the teacher's is added.
        part: ``(i, n)`` reads only every ``n``-th batch, from ``i`` on: so many processes may
            build one cache together. It is complete when all have ended.

    Returns:
        The manifest, with what was measured.

    Raises:
        UsageError: The directory holds another cache, an example has two different contents, or
            numbers cannot be kept like this.
    """
    storage, model, root = storage or Storage(), as_model(teacher), Path(directory)
    digests = {"teacher": fingerprint(model.variables), **fingerprints}
    settings = settings_of(precision, args)
    found = _read_same(root, digests, settings, storage)
    if found is not None and found.complete:
        return found
    inputs = None if model.takes is None else sorted(model.takes)
    teach = _make_teach(model, adaptor, storage, config, number, precision, args)
    started = Manifest(digests, settings, storage.to_dict(), "", inputs, {}, {})
    with _Builder(root, started, found, storage, part) as builder:
        set_epoch(dataloader, 0)
        for index, batch in enumerate(dataloader):
            if index % part[1] != part[0]:
                continue
            batch = as_arrays(batch_postprocessor(batch) if batch_postprocessor else batch)
            inputs_T = teacher_inputs(batch, number)
            ids, content = example_ids(batch), content_of(inputs_T, inputs)
            missing = builder.missing(ids, content)
            if missing:
                builder.add(teach(model.variables, batch), inputs_T, ids, content, missing)
        return builder.finish()


def settings_of(precision: Policy, args: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training that a teacher's outputs depend on."""
    fields = ("compute", "products", "output")
    dtypes = {field: getattr(precision, field) for field in fields}
    named = [f"{field} {np.dtype(dtype).name}" for field, dtype in dtypes.items() if dtype]
    named += ["norms float32"] * precision.keep_norm_fp32
    return {
        "precision": ", ".join(named) or "as given",
        "args": {name: repr(value) for name, value in args.items()},
    }


def _make_teach(
    model: Any,
    adaptor: Adaptor,
    storage: Storage,
    config: DistillationConfig | None,
    number: int | None,
    precision: Policy,
    args: Mapping[str, Any],
) -> Callable[[Any, Any], Outputs]:
    """The teacher's outputs, on the device, without what is not kept."""
    run = make_teacher_step(model, adaptor, precision=precision, args=args)

    @jax.jit
    def teach(variables: Any, batch: Any) -> Outputs:
        outputs = run(variables, _own_part(batch, number))
        assert isinstance(outputs, Outputs)
        if config is None:
            outputs = dataclasses.replace(outputs, features={})
        else:
            outputs = only_needed(outputs, config, teacher=number or 0)
        logits: Any = outputs.logits
        if storage.kind == "top_k":
            logits = tuple(keep_top_k(x, storage.k, storage.temperatures) for x in logits)
        if not logits and not outputs.features:
            raise UsageError(
                "There is nothing to keep: the teacher's adaptor returned no 'logits'."
            )
        return dataclasses.replace(outputs, logits=logits, losses=())

    return teach


def _own_part(batch: Any, number: int | None) -> Any:
    part = teacher_inputs(batch, number)
    if isinstance(part, Mapping):
        return {name: x for name, x in part.items() if name not in ("example_id", "teacher_cache")}
    return part


def _read_same(
    root: Path, digests: Mapping[str, str], settings: Mapping[str, Any], storage: Storage
) -> Manifest | None:
    """The manifest of an earlier build of this cache."""
    if not (root / FILE).exists():
        if root.is_dir() and any(path.name not in (RECORDS,) for path in root.iterdir()):
            raise UsageError(f"{root} is no teacher cache and not empty: choose another directory.")
        return None
    found = Manifest.read(root)
    found.refuse_other(root, digests, settings)
    if found.storage != storage.to_dict():
        raise UsageError(
            f"The teacher cache {root} is stored as {dict(found.storage)}, not as "
            f"{storage.to_dict()}: choose another directory, or remove it."
        )
    return found


class _Builder:
    """Packs and writes in the background; knows what is there already."""

    def __init__(
        self,
        root: Path,
        started: Manifest,
        found: Manifest | None,
        storage: Storage,
        part: tuple[int, int],
    ):
        self._root, self._manifest, self._storage, self._part = root, started, storage, part
        self._records = Records(root / RECORDS, create=True)
        self._there = set(self._records.keys())
        self._new: dict[bytes, int] = {}
        self._layout: Layout | None = None
        if found is not None and found.layout:
            self._manifest = found
            self._layout = Layout.from_dict(found.layout)
        before = self._progress(part[0])
        self._sums = measure.Sums(**before.get("sums", {}))
        self._places: dict[str, list[str]] = before.get("places", {})
        self._start = time.monotonic()
        self._worker = concurrent.futures.ThreadPoolExecutor(1)
        self._running: list[concurrent.futures.Future[None]] = []
        self._pending: dict[bytes, bytes] = {}
        self._commits: list[Any] = []

    def __enter__(self) -> "_Builder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._worker.shutdown()
        if kind is not None:  # what is computed is not lost
            self._commit()
            self._wait()

    def missing(self, ids: np.ndarray | None, content: np.ndarray) -> list[int]:
        """The rows of a batch that are not there yet."""
        keys = keys_of(content if ids is None else ids)
        kind = "content" if ids is None else "example_id"
        if self._manifest.keys not in ("", kind):
            raise UsageError(
                f"The cache tells examples apart by {self._manifest.keys}, this batch by {kind}."
            )
        self._manifest = dataclasses.replace(self._manifest, keys=kind)
        known = [key for key in keys if key in self._there and key not in self._new]
        for key, record in zip(known, self._records.read(known), strict=True):
            self._new[key] = check_of(record) if record else 0
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
        ids: np.ndarray | None,
        content: np.ndarray,
        rows: list[int],
    ) -> None:
        """Takes a batch's outputs, which the device may still be computing."""
        if self._layout is None:
            half = self._storage.kind != "full"
            self._layout = layout_of(outputs, half=half, bits=self._storage.bits)
            self._manifest = dataclasses.replace(self._manifest, layout=self._layout.to_dict())
            self._save_manifest()
        self._places = common_places(self._places, outputs, inputs_T)
        if not self._progress_file(self._part[0]).exists():
            self._save_progress(done=False)
        keys = keys_of(content if ids is None else ids)
        job = self._worker.submit(self._keep, outputs, self._layout, content[:, 0], keys, rows)
        self._running.append(job)
        while len(self._running) > _AHEAD:
            self._running.pop(0).result()

    def finish(self) -> Manifest:
        """Waits until everything is safe; completes the manifest if all parts have ended."""
        for job in self._running:
            job.result()
        self._commit()
        self._wait()
        if self._layout is None and not self._there:
            raise UsageError("There is nothing to cache: the dataloader has no batches.")
        self._save_progress(done=True)
        manifest = dataclasses.replace(Manifest.read(self._root), keys=self._manifest.keys)
        parts = [self._progress(index) for index in range(self._part[1])]
        if not all(part.get("done") for part in parts):
            return manifest
        sums = measure.Sums()
        for part in parts:
            sums = sums.merged(part["sums"])
        manifest = dataclasses.replace(
            manifest,
            widths=chosen_places(shared_places([part["places"] for part in parts])),
            complete=True,
            examples=len(self._records.keys()),
            report=sums.report(),
        )
        manifest.write(self._root)
        return manifest

    def _keep(
        self,
        outputs: Outputs,
        layout: Layout,
        checks: np.ndarray,
        keys: list[bytes],
        rows: list[int],
    ) -> None:
        outputs = jax.device_get(outputs)
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
        for commit in self._commits:
            commit.result()
        if self._commits:
            self._save_progress(done=False)
        self._commits = []

    def _progress_file(self, index: int) -> Path:
        return self._root / f"part-{index}-of-{self._part[1]}.json"

    def _progress(self, index: int) -> dict[str, Any]:
        path = self._progress_file(index)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _save_progress(self, *, done: bool) -> None:
        now = time.monotonic()
        self._sums.seconds += now - self._start
        self._start = now
        sums = dataclasses.asdict(self._sums)
        progress = {"done": done, "sums": sums, "places": self._places}
        write_json(self._progress_file(self._part[0]), progress)

    def _save_manifest(self) -> None:
        if not (self._root / FILE).exists():
            self._manifest.write(self._root)
