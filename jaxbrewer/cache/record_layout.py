"""The layout of a teacher's outputs in a record: which arrays, under which masks."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..configs import DistillationConfig
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..json_files import conform
from ..objective.sampled_tail import SampledTail
from ..objective.top_k import TopK
from . import top_k_codec as codec

BITS = (*range(4, 17), 32)
"""Bits in which a logit of a top-k may be stored; 32 are float32."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """How one array of the outputs is stored.

    Attributes:
        name: Kind and index, such as ``"logits/0"``, ``"hidden/3"``, ``"labels/0"``.
        dtype: Its dtype in a batch.
        stored: Its dtype on disk; ``"top_k"`` for :class:`~jaxbrewer.objective.top_k.TopK`.
        mask: The mask whose positions are kept; ``None`` keeps all.
        shape: Its axes after the batch and, with a mask, the position. Without a mask each record
            has its own.
        k: Top-k only: number of logits.
        bits: Top-k only: bits per logit.
        classes: Top-k only: number of classes of the teacher.
        temperatures: Top-k only: temperatures at which the weight of the other classes is exact.
        samples: Top-k only: number of draws from the other classes.
    """

    name: str
    dtype: str
    stored: str
    mask: str | None
    shape: tuple[int, ...]
    k: int = 0
    bits: int = 0
    classes: int = 0
    temperatures: tuple[float, ...] = ()
    samples: int = 0

    @property
    def packed(self) -> int:
        """Bytes per position of a top-k."""
        tail = 4 * len(self.temperatures)
        drawn = codec.index_bytes(self.classes, self.samples) if self.samples else 0
        values = codec.value_bytes(self.k, self.bits)
        return codec.index_bytes(self.classes, self.k) + values + tail + drawn


@dataclasses.dataclass(frozen=True)
class RecordLayout:
    """How the outputs of a teacher are stored, the same for all examples.

    Attributes:
        masks: The masks' names and dtypes, ``"inputs_mask"`` first.
        entries: The arrays.
        layers: The number of layers of each feature; only those among the entries are kept.
    """

    masks: Mapping[str, str]
    entries: tuple[StoredArray, ...]
    layers: Mapping[str, int]

    @property
    def names(self) -> str:
        """The names of the stored arrays, for messages."""
        return ", ".join(entry.name for entry in self.entries)

    def holds_as(self, other: "RecordLayout") -> bool:
        """Whether both store the same arrays in the same way; shapes may depend on the width."""
        same = [
            [(e.name, e.stored, e.mask, e.k, e.samples) for e in layout.entries]
            for layout in (self, other)
        ]
        return same[0] == same[1] and self.masks == other.masks

    def require_layers(self, config: DistillationConfig, number: int | None, name: str) -> None:
        """Raises :class:`UsageError` if a layer that a config needs of this teacher is missing."""
        stored = {entry.name for entry in self.entries}
        for match in config.intermediate_matches:
            count = self.layers.get(match.feature, 0)
            layers = match.layer_T if isinstance(match.layer_T, tuple) else (match.layer_T,)
            for layer in layers if match.teacher == (number or 0) else ():
                if f"{match.feature}/{layer + count if layer < 0 else layer}" not in stored:
                    raise UsageError(
                        f"{name} holds no layer {layer} of {match.feature!r}, which "
                        "intermediate_matches need: build it for this config."
                    )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "masks": dict(self.masks),
            "entries": [
                {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in dataclasses.asdict(entry).items()
                }
                for entry in self.entries
            ],
            "layers": dict(self.layers),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], source: str = "the manifest") -> "RecordLayout":
        """The inverse of :meth:`to_dict`.

        Args:
            plain: The layout, as a file has it.
            source: The name of the file in messages.

        Raises:
            UsageError: It is not a layout.
        """
        conform(plain, cls, source)
        entries = []
        for index, row in enumerate(plain["entries"]):
            entry = _stored_array(row)
            if problem := _problem_of(entry, plain["masks"]):
                raise UsageError(f"{source}: layout.entries[{index}] {problem}.")
            entries.append(entry)
        for name, dtype in plain["masks"].items():
            if not _NAME.fullmatch(f"{name}/0" if name == "inputs_mask" else name):
                raise UsageError(f"{source}: layout.masks has the unknown mask {name!r}.")
            if not _is_dtype(dtype):
                raise UsageError(f"{source}: layout.masks.{name} is not a dtype: {dtype!r}.")
        for feature, count in plain["layers"].items():
            if not 0 <= count <= _MOST_LAYERS:
                raise UsageError(f"{source}: layout.layers.{feature} cannot be {count}.")
        return cls(dict(plain["masks"]), tuple(entries), dict(plain["layers"]))


_NAME = re.compile(r"[a-z_]+/[0-9]{1,6}")
_MOST_LAYERS = 10**6


def _stored_array(row: Mapping[str, Any]) -> StoredArray:
    known: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value := row[field.name], list) else value
        for field in dataclasses.fields(StoredArray)
        if field.name in row
    }
    return StoredArray(**known)


def _problem_of(entry: StoredArray, masks: Mapping[str, str]) -> str | None:
    """Why no array is stored like this, or ``None``."""
    if not _NAME.fullmatch(entry.name):
        return f"has the unknown name {entry.name!r}"
    if entry.mask is not None and entry.mask not in masks:
        return f"has the mask {entry.mask!r}, which is not among the masks"
    if any(not 0 <= size < 2**31 for size in entry.shape):
        return f"has the impossible shape {list(entry.shape)}"
    if entry.stored != "top_k":
        known = _is_dtype(entry.dtype) and _is_dtype(entry.stored)
        return None if known else f"has an unknown dtype: {entry.dtype!r} or {entry.stored!r}"
    if not (_is_dtype(entry.dtype) and 1 <= entry.k <= entry.classes < 2**31):
        return f"cannot keep {entry.k} of {entry.classes} logits of dtype {entry.dtype!r}"
    if not 0 <= entry.samples < 2**16 or (entry.samples and len(entry.temperatures) != 1):
        return f"cannot have {entry.samples} samples at {list(entry.temperatures)}"
    if not (entry.bits in BITS and entry.temperatures and min(entry.temperatures) > 0):
        return f"cannot have {entry.bits} bits and temperatures {list(entry.temperatures)}"
    return None


def _is_dtype(name: str) -> bool:
    try:
        return jnp.dtype(name).name == name and jnp.dtype(name).kind != "O"
    except TypeError:
        return False


def layout_of(outputs: Outputs, *, half: bool = False, bits: int = 8) -> RecordLayout:
    """The layout for outputs like these, whose arrays may be shapes only.

    Args:
        outputs: A batch's, without ``losses``; ``None`` stands for a layer that is not kept.
        half: Whether to store floats as float16.
        bits: Bits per logit of a top-k.
    """
    masks = {}
    if outputs.inputs_mask is not None and outputs.inputs_mask.ndim == 2:
        masks["inputs_mask"] = outputs.inputs_mask
    masks |= {
        f"logits_mask/{i}": mask for i, mask in enumerate(outputs.logits_mask) if mask.ndim == 2
    }
    entries = []
    for name, array in named_arrays(outputs).items():
        mask = _mask_of(name, array, outputs)
        positions = array.shape[1:2] if mask else ()
        if isinstance(array, (TopK, SampledTail)):
            kept, samples = top_k_of(array)
            entries.append(
                StoredArray(
                    name, kept.logits.dtype.name, "top_k", mask, (), kept.indices.shape[-1],
                    bits, kept.classes, kept.temperatures,
                    0 if samples is None else samples.shape[-1],
                )
            )  # fmt: skip
            continue
        stored = "float16" if half and jnp.issubdtype(array.dtype, jnp.floating) else array.dtype
        shape = array.shape[1 + len(positions) :]
        entries.append(
            StoredArray(name, jnp.dtype(array.dtype).name, jnp.dtype(stored).name, mask, shape)
        )
    return RecordLayout(
        {name: jnp.dtype(mask.dtype).name for name, mask in masks.items()},
        tuple(entries),
        {feature: len(layers) for feature, layers in outputs.features.items()},
    )


def top_k_of(array: TopK | SampledTail) -> tuple[TopK, Any]:
    """The largest logits, and the samples of the other classes, if there are any."""
    return (array.kept, array.samples) if isinstance(array, SampledTail) else (array, None)


def named_arrays(outputs: Outputs) -> dict[str, Any]:
    """The arrays that a layout has entries for, by name."""
    arrays: dict[str, Any] = {f"logits/{i}": x for i, x in enumerate(outputs.logits)}
    arrays |= {f"labels/{i}": x for i, x in enumerate(outputs.labels)}
    arrays |= {f"logits_weights/{i}": x for i, x in enumerate(outputs.logits_weights)}
    for feature, layers in outputs.features.items():
        arrays |= {f"{feature}/{i}": x for i, x in enumerate(layers) if x is not None}
    if outputs.inputs_mask is not None and outputs.inputs_mask.ndim != 2:
        arrays["inputs_mask/0"] = outputs.inputs_mask
    masks = enumerate(outputs.logits_mask)
    return arrays | {f"logits_mask/{i}": mask for i, mask in masks if mask.ndim != 2}


def named_masks(outputs: Outputs) -> dict[str, np.ndarray]:
    """The masks of padding, by name."""
    numbered = enumerate(outputs.logits_mask)
    masks = {f"logits_mask/{i}": np.asarray(x) for i, x in numbered if x.ndim == 2}
    if outputs.inputs_mask is not None and outputs.inputs_mask.ndim == 2:
        masks["inputs_mask"] = np.asarray(outputs.inputs_mask)
    return masks


def _mask_of(name: str, array: Any, outputs: Outputs) -> str | None:
    """The mask outside of which no loss reads an array."""
    kind, _, number = name.partition("/")
    if kind in ("logits", "labels", "logits_weights"):
        masks = outputs.logits_mask
        index = 0 if len(masks) == 1 else int(number)
        positions = 3 if kind == "logits" else 2
        if array.ndim == positions and index < len(masks) and masks[index].ndim == 2:
            return f"logits_mask/{index}" if masks[index].shape == array.shape[:2] else None
        return None
    mask = None if kind == "logits_mask" else outputs.inputs_mask
    covers = mask is not None and array.ndim == 3 and mask.shape == array.shape[:2]
    # Padded keys take part in the softmax of an attention loss, so attention is stored whole.
    return "inputs_mask" if covers and kind != "attention" else None
