"""Runs a teacher over the data once and writes its outputs to disk."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..checksums import fingerprint
from ..configs import DistillationConfig
from ..data.batches import as_batch
from ..data.groups import set_epoch
from ..errors import UsageError
from ..forward.adaptors import Adaptor, Outputs
from ..forward.as_model import as_model
from ..forward.call_arguments import arguments_of
from ..forward.model import Model
from ..forward.precision import AS_GIVEN, Policy
from ..objective.sampled_tail import keep_sampled, seeds_of_positions
from ..objective.top_k import keep_top_k
from ..step.teachers import make_teacher_step, only_needed, with_whole_logits
from .examples import examples_of, teacher_inputs
from .keys import content_digests
from .manifest import FILE, Manifest, Storage
from .writer import RECORDS, CacheWriter


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
    """Writes a teacher's outputs for every example of one pass over the data.

    Each example has a record of its own, under its ``example_id`` if batches have that entry (one
    integer per example), otherwise under a digest of the teacher's inputs. While the device works
    on a batch, the one before is packed and written. An interrupted build resumes when it is
    called again; a complete cache is not changed.

    Args:
        directory: The directory of the cache: new, empty, or with a build of the same cache.
        teacher: Any model that the distillers take.
        adaptor: Its adaptor; the ``losses`` that it returns are not kept.
        dataloader: A loader that yields every example once; its first epoch is read.
        storage: How numbers are stored; by default in full.
        config: Its matches say which layers to keep; by default none.
        number: The index among several teachers, for batches with a part for each.
        precision: The dtypes of the teacher.
        args: Further keyword arguments of every call of the teacher.
        batch_postprocessor: ``batch -> batch``, applied before anything else.
        fingerprints: Further digests that a reader of the cache must match, such as
            ``{"data": fingerprint(arrays)}``; the teacher's is added.
        part: ``(i, n)`` reads only every ``n``-th batch, from ``i`` on, so that ``n`` processes
            build one cache together. It is complete when all have ended.

    Returns:
        The manifest, with the measured sizes and errors.

    Raises:
        UsageError: The directory holds another cache, an example has two different contents, or
            numbers do not fit the storage.
    """
    storage, model = storage or Storage(), as_model(teacher)
    digests = {"teacher": fingerprint(model.variables), **fingerprints}
    settings = teacher_settings(model, precision, args)
    inputs = None if model.takes is None else sorted(model.takes)

    def seeds_of_rows(inputs_T: Any) -> Any:  # of sampled classes
        if storage.kind != "sampled":
            return None
        return content_digests(inputs_T, inputs)[:, 1].astype(np.uint32)

    teach = _make_teach(model, adaptor, storage, config, number, precision, args)
    postprocessor = batch_postprocessor
    manifest = write_outputs(
        directory,
        (postprocessor(batch) if postprocessor else batch for batch in _first_epoch(dataloader)),
        lambda batch: teach(model.variables, batch, seeds_of_rows(teacher_inputs(batch, number))),
        storage=storage,
        inputs=inputs,
        fingerprints=digests,
        settings=settings,
        number=number,
        part=part,
    )
    if config is not None:
        layout = manifest.record_layout(directory)
        layout.require_layers(config, number, f"the cache {directory}")
    return manifest


def _first_epoch(dataloader: Any) -> Iterator[Any]:
    set_epoch(dataloader, 0)
    yield from dataloader


def write_outputs(
    directory: str | Path,
    batches: Iterable[Any],
    outputs_of: Callable[[Any], Outputs],
    *,
    storage: Storage,
    inputs: Sequence[str] | None,
    fingerprints: Mapping[str, str],
    settings: Mapping[str, Any],
    number: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> Manifest:
    """Writes outputs for every example of some batches, wherever they come from.

    Args:
        directory: The directory of the cache: new, empty, or with a build of the same cache.
        batches: Batches that hold every example once.
        outputs_of: The outputs of a batch, in the form that ``storage`` stores.
        storage: How numbers are stored.
        inputs: The batch entries that make up an example; ``None`` for all.
        fingerprints: Digests that a reader of the cache must match.
        settings: Settings that a reader must match.
        number: The index among several teachers, for batches with a part for each.
        part: As for :func:`build_cache`.

    Returns:
        The manifest; that of the cache in the directory if it is complete.

    Raises:
        UsageError: As :func:`build_cache`.
    """
    root = Path(directory)
    found = _read_same(root, fingerprints, settings, storage)
    if found is not None and found.complete:
        return found
    started = Manifest(fingerprints, settings, storage.to_dict(), "", inputs, {}, {})
    with CacheWriter(root, started, found, storage, part) as writer:
        for index, batch in enumerate(batches):
            if index % part[1] != part[0]:
                continue
            batch = as_batch(batch)
            examples = examples_of(batch, number)
            content = content_digests(examples.inputs, inputs)
            missing = writer.missing(examples.ids, content)
            if missing:
                inputs_T = teacher_inputs(batch, number)
                writer.add(outputs_of(batch), inputs_T, examples, content, missing)
        return writer.finish()


def teacher_settings(model: Model, precision: Policy, args: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a teacher's outputs depend on: dtypes and its arguments.

    Args:
        model: The teacher.
        precision: The dtypes of a training with it.
        args: Keyword arguments of its calls.
    """
    precision = precision.of_teacher()
    fields = ("compute", "products", "output")
    dtypes = {field: getattr(precision, field) for field in fields}
    named = [f"{field} {np.dtype(dtype).name}" for field, dtype in dtypes.items() if dtype]
    named += ["norms float32"] * precision.keep_norm_fp32
    return {
        "precision": ", ".join(named) or "as given",
        "args": {k: repr(value) for k, value in arguments_of(model, "teacher", args).items()},
    }


def _make_teach(
    model: Any,
    adaptor: Adaptor,
    storage: Storage,
    config: DistillationConfig | None,
    number: int | None,
    precision: Policy,
    args: Mapping[str, Any],
) -> Callable[[Any, Any, Any], Outputs]:
    """A jitted function that returns the outputs to keep, on the device."""
    run_teacher = make_teacher_step(model, adaptor, precision=precision, args=args)

    @jax.jit
    def teach(variables: Any, batch: Any, seeds: Any) -> Outputs:
        outputs = run_teacher(variables, _own_part(batch, number))
        assert isinstance(outputs, Outputs)
        if config is None:
            outputs = dataclasses.replace(outputs, features={})
        else:
            outputs = only_needed(outputs, config, teacher=number or 0)
        logits: Any = outputs.logits
        if storage.kind == "top_k":
            logits = tuple(keep_top_k(x, storage.k, storage.temperatures) for x in logits)
        if storage.kind == "sampled":
            (temperature,) = storage.temperatures
            logits = tuple(
                keep_sampled(
                    x,
                    storage.k,
                    storage.samples,
                    temperature,
                    seeds_of_positions(seeds, x.shape[1:-1], storage.seed),
                )
                for x in logits
            )
        if not logits and not outputs.features:
            raise UsageError(
                "There is nothing to cache: the teacher's adaptor returned no 'logits'."
            )
        outputs = dataclasses.replace(outputs, logits=logits, losses=())
        return with_whole_logits(outputs)

    return teach


def _own_part(batch: Any, number: int | None) -> Any:
    part = teacher_inputs(batch, number)
    if isinstance(part, Mapping):
        return {name: x for name, x in part.items() if name not in ("example_id", "teacher_cache")}
    return part


def _read_same(
    root: Path, digests: Mapping[str, str], settings: Mapping[str, Any], storage: Storage
) -> Manifest | None:
    """The manifest of an earlier build of this cache; ``None`` if there is none."""
    found = Manifest.find(root)
    if found is None:
        others = [path.name for path in root.iterdir()] if root.is_dir() else []
        if any(name != RECORDS and not name.startswith(f".{FILE}") for name in others):
            raise UsageError(
                f"{root} is neither empty nor a teacher cache: choose another directory."
            )
        return None
    found.require_built_from(root, digests, settings)
    if found.storage != storage.to_dict():
        raise UsageError(
            f"The teacher cache {root} is stored as {dict(found.storage)}, not as "
            f"{storage.to_dict()}: choose another directory, or remove it."
        )
    return found
