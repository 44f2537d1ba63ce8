"""Encodes one example's teacher outputs as bytes, and decodes many of them as one batch.

A record does not depend on the batch that the example was in: positions that a mask excludes are
not stored, and are filled up to the width of the batch that is read. Arrays without a mask are
stored whole and fit batches of the same width only.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..objective.sampled_tail import SampledTail
from ..objective.top_k import TopK
from . import top_k_codec as codec
from .record_layout import RecordLayout, StoredArray, named_arrays, named_masks, top_k_of

_HEAD, _MASK, _CRC = struct.Struct("<Q"), struct.Struct("<IIIB"), struct.Struct("<I")
_OF_LOGITS = ("logits", "labels", "logits_weights")
_RAW, _LEFT = 1, 2  # a mask with other values than 0 and 1; an example padded at its left


def encode(outputs: Outputs, layout: RecordLayout, checks: np.ndarray) -> list[bytes]:
    """The records of a batch's examples.

    Args:
        outputs: Host arrays.
        layout: From :func:`layout_of`.
        checks: The first half of each example's digest, uint64 ``[batch]``; see
            :func:`content_check`.

    Raises:
        UsageError: A number does not fit float16, or a top-k holds NaN.
    """
    arrays, given = named_arrays(outputs), named_masks(outputs)
    columns = {
        entry.name: _pack_rows(entry, arrays[entry.name], given.get(entry.mask or ""))
        for entry in layout.entries
    }
    records = []
    for row, check in enumerate(checks):
        parts, kept = [_HEAD.pack(int(check))], {}
        for name in layout.masks:
            packed, kept[name] = _pack_mask(name, row, given)
            parts.append(packed)
        for entry in layout.entries:
            values = columns[entry.name][row]
            if entry.mask is not None:
                values = values[kept[entry.mask]]
            else:
                shape = arrays[entry.name].shape[1:]
                parts.append(struct.pack(f"<B{len(shape)}I", len(shape), *shape))
            parts.append(np.ascontiguousarray(values).tobytes())
        record = b"".join(parts)
        records.append(record + _CRC.pack(zlib.crc32(record)))
    return records


def is_sound(record: bytes) -> bool:
    """Whether a record's CRC matches."""
    end = len(record) - _CRC.size
    return end > 0 and _CRC.unpack_from(record, end)[0] == zlib.crc32(memoryview(record)[:end])


def content_check(record: bytes) -> int:
    """The digest that a record was encoded with."""
    return int(_HEAD.unpack_from(record)[0])


def decode(
    records: Sequence[bytes], layout: RecordLayout, widths: Mapping[str, int] | None = None
) -> Outputs:
    """The outputs of a batch of these examples, as host arrays.

    Args:
        records: From :func:`encode`.
        layout: The same.
        widths: For each mask the width of the batch; by default that of the widest batch that the
            examples were written from.

    Returns:
        ``Outputs``; padding is 0 (-100 in ``labels``).

    Raises:
        UsageError: An example does not fit the batch, or a record has another layout.
    """
    cursors = [_HEAD.size] * len(records)
    try:
        outputs = _decode(records, cursors, layout, widths or {})
    except UsageError:
        raise
    except (struct.error, ValueError, IndexError):
        raise _other_layout() from None
    if any(at != len(record) - _CRC.size for at, record in zip(cursors, records, strict=True)):
        raise _other_layout()
    return outputs


def _other_layout() -> UsageError:
    return UsageError(
        "The records of the teacher cache do not have the layout that its manifest describes: "
        "remove the cache and build it again."
    )


def _decode(
    records: Sequence[bytes],
    cursors: list[int],
    layout: RecordLayout,
    widths: Mapping[str, int],
) -> Outputs:
    """The outputs of records, which are read from their ``cursors``."""
    masks = {}
    for name, dtype in layout.masks.items():
        masks[name] = _read_masks(records, cursors, name, dtype, widths.get(name))
    arrays: dict[str, Any] = {}
    for entry in layout.entries:
        mask = None if entry.mask is None else masks[entry.mask] != 0
        arrays[entry.name] = _read_entry(records, cursors, entry, mask)
    return _outputs(arrays, masks, layout.layers)


def _pack_rows(entry: StoredArray, array: Any, mask: np.ndarray | None) -> np.ndarray:
    """The values as stored, ``[batch, ...]``; padding may hold anything."""
    if isinstance(array, (TopK, SampledTail)):
        kept, samples = top_k_of(array)
        indices, logits, tail = map(np.asarray, (kept.indices, kept.logits, kept.log_tail))
        if mask is not None:
            logits, tail = (np.where((mask != 0)[..., None], x, 0) for x in (logits, tail))
        if np.isnan(logits).any() or np.isnan(tail).any():
            raise UsageError(f"The teacher's {entry.name} hold NaN, which a cache does not store.")
        flat = [
            codec.pack_indices(indices.reshape(-1, entry.k), entry.classes),
            codec.pack_values(logits.reshape(-1, entry.k), entry.bits),
            np.ascontiguousarray(tail.reshape(-1, tail.shape[-1]), "<f4").view(np.uint8),
        ]
        if samples is not None:
            drawn = np.asarray(samples).reshape(-1, entry.samples)
            flat.append(codec.pack_indices(drawn, entry.classes))
        return np.concatenate(flat, axis=1).reshape(*indices.shape[:-1], -1)
    array = np.asarray(array)
    with np.errstate(over="ignore"):
        stored = array.astype(jnp.dtype(entry.stored), copy=False)
    if stored.dtype != array.dtype:
        lost = np.isinf(stored) & ~np.isinf(array)
        if (lost if mask is None else lost[mask != 0]).any():
            raise UsageError(
                f"The teacher's {entry.name} hold numbers beyond the range of float16: store them "
                "in full precision."
            )
    return stored


def _pack_mask(name: str, row: int, masks: Mapping[str, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """A mask without its padding, and the positions that it selects."""
    values = masks[name][row]
    width, selected = len(values), np.flatnonzero(values)
    tokens = masks.get("inputs_mask", masks[name])[row] if "inputs_mask" in masks else values[:0]
    left = len(tokens) == width > 0 and not tokens[0] and bool(tokens[-1])
    start = int(np.argmax(tokens != 0)) if left else 0
    stop = width if left else (int(selected[-1]) + 1 if len(selected) else 0)
    span = values[start:stop]
    plain = bool(((span == 0) | (span == 1)).all())
    flags = (0 if plain else _RAW) | (_LEFT if left else 0)
    payload = np.packbits(span != 0) if plain else np.ascontiguousarray(span)
    selected = selected[(selected >= start) & (selected < stop)]
    return _MASK.pack(width, start, stop - start, flags) + payload.tobytes(), selected


def _read_masks(
    records: Sequence[bytes], cursors: list[int], name: str, dtype: str, width: int | None
) -> np.ndarray:
    heads = [_MASK.unpack_from(record, at) for record, at in zip(records, cursors, strict=True)]
    wide = max((head[0] for head in heads), default=0) if width is None else width
    masks: np.ndarray = np.zeros((len(records), wide), jnp.dtype(dtype))
    for row, (record, (built, start, length, flags)) in enumerate(zip(records, heads, strict=True)):
        at = cursors[row] + _MASK.size
        if flags & _RAW:
            span: np.ndarray = np.frombuffer(record, masks.dtype, length, at)
            cursors[row] = at + length * masks.itemsize
        else:
            size = -(-length // 8)
            span = np.unpackbits(np.frombuffer(record, np.uint8, size, at), count=length)
            cursors[row] = at + size
        start += wide - built if flags & _LEFT else 0
        if start < 0 or start + length > wide:
            raise UsageError(
                f"A cached example of {length} positions ({name}) does not fit a batch of {wide}: "
                "batches must not cut examples shorter than when the cache was built."
            )
        masks[row, start : start + length] = span
    return masks


def _read_entry(
    records: Sequence[bytes], cursors: list[int], entry: StoredArray, mask: np.ndarray | None
) -> Any:
    if mask is None:
        shape = _own_shape(records, cursors, entry)
        positions = shape if entry.stored == "top_k" else ()
    else:
        shape = positions = mask.shape[1:]
    counts = [int(np.prod(positions))] * len(records) if mask is None else mask.sum(1).tolist()
    if entry.stored == "top_k":
        rows = _read_rows(records, cursors, counts, np.dtype(np.uint8), (entry.packed,))
        found = _unpack(rows, entry)
        leaves, structure = jax.tree.flatten(found)
        if mask is None:
            leaves = [leaf.reshape(len(records), *positions, -1) for leaf in leaves]
        else:
            fill = np.arange(found.indices.shape[-1], dtype=np.int32)
            leaves = [_scatter(leaf, mask, 0 if i else fill) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, leaves)
    stored, dtype = jnp.dtype(entry.stored), jnp.dtype(entry.dtype)
    if mask is None:
        rows = _read_rows(records, cursors, [1] * len(records), stored, shape)
        return rows.astype(dtype, copy=False)
    rows = _read_rows(records, cursors, counts, stored, entry.shape)
    ignored = -100 if entry.name.startswith("labels/") else 0
    return _scatter(rows.astype(dtype, copy=False), mask, ignored)


def _own_shape(records: Sequence[bytes], cursors: list[int], entry: StoredArray) -> tuple[int, ...]:
    shapes = set()
    for row, record in enumerate(records):
        ndim = record[cursors[row]]
        shapes.add(struct.unpack_from(f"<{ndim}I", record, cursors[row] + 1))
        cursors[row] += 1 + 4 * ndim
    if len(shapes) > 1:
        kind = entry.name.partition("/")[0]
        mask = "logits_mask" if kind in _OF_LOGITS else "inputs_mask"
        remedy = f"let the teacher's adaptor return {mask!r}, or " if kind != "attention" else ""
        raise UsageError(
            f"The cached {entry.name} of this batch's examples have the shapes {sorted(shapes)}, "
            f"since they are kept with their padding: {remedy}pad all batches to one width, and "
            "build the cache again."
        )
    (shape,) = shapes
    return shape[:-1] if entry.stored == "top_k" else shape


def _read_rows(
    records: Sequence[bytes],
    cursors: list[int],
    counts: Sequence[int],
    dtype: np.dtype,
    shape: tuple[int, ...],
) -> np.ndarray:
    """``counts[i]`` items of ``shape`` from each record, all in one array."""
    size = int(np.prod(shape))
    rows = np.empty((sum(counts), *shape), dtype)
    flat, done = rows.reshape(-1), 0
    for row, (record, count) in enumerate(zip(records, counts, strict=True)):
        numbers = count * size
        flat[done : done + numbers] = np.frombuffer(record, dtype, numbers, cursors[row])
        done += numbers
        cursors[row] += numbers * dtype.itemsize
    return rows


def _unpack(rows: np.ndarray, entry: StoredArray) -> TopK:
    """The top-k of positions; one with samples as the distribution that they estimate."""
    first = codec.index_bytes(entry.classes, entry.k)
    second = first + codec.value_bytes(entry.k, entry.bits)
    third = second + 4 * len(entry.temperatures)
    arrays: tuple[Any, Any, Any] = (
        codec.unpack_indices(rows[:, :first], entry.k, entry.classes),
        codec.unpack_values(rows[:, first:second], entry.k, entry.bits),
        np.ascontiguousarray(rows[:, second:third]).view("<f4").astype(np.float32, copy=False),
    )
    kept = TopK(*arrays, entry.classes, entry.temperatures)
    if not entry.samples:
        return kept
    samples: Any = codec.unpack_indices(rows[:, third:], entry.samples, entry.classes)
    return SampledTail(kept, samples).estimate()


def _scatter(rows: np.ndarray, mask: np.ndarray, fill: Any) -> np.ndarray:
    array = np.empty((*mask.shape, *rows.shape[1:]), rows.dtype)
    array[...] = fill
    array[mask] = rows
    return array


def _outputs(
    arrays: Mapping[str, Any], masks: Mapping[str, np.ndarray], layers: Mapping[str, int]
) -> Outputs:
    groups: dict[str, dict[int, Any]] = {}
    for name, array in {**arrays, **masks}.items():
        kind, _, number = name.partition("/")
        groups.setdefault(kind, {})[int(number or 0)] = array
    ordered: dict[str, tuple[Any, ...]] = {
        kind: tuple(found.get(i) for i in range(layers.get(kind, len(found))))
        for kind, found in groups.items()
    }
    (inputs_mask,) = ordered.pop("inputs_mask", (None,))
    return Outputs(
        logits=ordered.pop("logits", ()),
        labels=ordered.pop("labels", ()),
        logits_weights=ordered.pop("logits_weights", ()),
        logits_mask=ordered.pop("logits_mask", ()),
        inputs_mask=inputs_mask,
        features={feature: ordered.get(feature, (None,) * layers[feature]) for feature in layers},
    )
