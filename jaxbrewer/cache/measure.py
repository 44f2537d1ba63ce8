"""Sizes and errors of a cache, measured while it is built."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..forward.adaptors import Outputs
from ..objective.sampled_tail import SampledTail
from ..objective.top_k import TopK
from . import top_k_codec as codec
from .record_layout import RecordLayout, StoredArray, named_arrays, named_masks

SAMPLE = 64
"""Positions of a batch whose divergence is measured where all classes are kept."""


@dataclasses.dataclass
class Sums:
    """Sums over examples, which parts of a build add up.

    Attributes:
        examples: Number of examples.
        positions: Positions of the first head's logits (tokens, or examples).
        record_bytes: Size of all records.
        float32_bytes: Size of the same numbers as float32, without padding.
        seconds: Duration of the build.
        compared: Positions whose divergence was measured.
        kl: Sum of KL(teacher || stored logits), in nats; of a top-k over its ``k + 1`` classes.
        tail: Sum of the probability of classes that are not stored.
        largest_error: The largest absolute error of any finite number.
    """

    examples: int = 0
    positions: int = 0
    record_bytes: int = 0
    float32_bytes: int = 0
    seconds: float = 0.0
    compared: int = 0
    kl: float = 0.0
    tail: float = 0.0
    largest_error: float = 0.0

    def merged(self, other: Mapping[str, float]) -> "Sums":
        """The sums of both."""
        values = dataclasses.asdict(self)
        merged = {name: value + other.get(name, 0) for name, value in values.items()}
        merged["largest_error"] = max(self.largest_error, other.get("largest_error", 0.0))
        return Sums(**merged)

    def report(self) -> dict[str, float]:
        """Averages per example, position and second."""
        examples, positions = max(self.examples, 1), max(self.positions, 1)
        compared = max(self.compared, 1)
        return {
            "positions": self.positions,
            "bytes_per_example": self.record_bytes / examples,
            "bytes_per_position": self.record_bytes / positions,
            "float32_bytes_per_position": self.float32_bytes / positions,
            "kl": self.kl / compared,
            "tail": self.tail / compared,
            "largest_error": self.largest_error,
            "examples_per_second": self.examples / self.seconds if self.seconds else 0.0,
        }


def sizes_of(outputs: Outputs, layout: RecordLayout) -> tuple[int, int]:
    """Positions of the first head, and the size of all arrays as float32 without padding."""
    positions = total = 0
    arrays, masks = _by_name(outputs)
    for entry in layout.entries:
        array = arrays[entry.name]
        shape = array.shape
        rows = int((masks[entry.mask] != 0).sum()) if entry.mask else 1
        total += 4 * rows * int(np.prod(shape[2:] if entry.mask else shape))
        if entry.name == "logits/0":
            positions = rows if entry.mask else int(np.prod(shape[:-1]))
    total += sum(4 * int((mask != 0).sum()) for mask in masks.values())
    return positions, total


def add_errors(sums: Sums, exact: Outputs, kept: Outputs, layout: RecordLayout) -> None:
    """Adds the errors of ``kept`` against ``exact``."""
    (before, masks), (after, _) = _by_name(exact), _by_name(kept)
    for entry in layout.entries:
        selected = masks[entry.mask] != 0 if entry.mask else ...
        if entry.stored == "top_k":
            own, kept_top_k = before[entry.name], after[entry.name]
            if isinstance(own, SampledTail):  # of which only the logits are rounded
                own = own.kept
                kept_top_k = _rounded(own, entry)
            _add_top_k(sums, own, kept_top_k, selected)
        elif entry.stored != entry.dtype:
            _add_rounded(sums, entry, before[entry.name][selected], after[entry.name][selected])


def _add_top_k(sums: Sums, exact: TopK, kept: TopK, selected: Any) -> None:
    log_p, log_q = (_bucketed(top_k, selected) for top_k in (exact, kept))
    sums.kl += _divergence(log_p, log_q)
    sums.tail += float(np.exp(log_p[:, -1]).sum())
    sums.compared += len(log_p)
    _add_largest(sums, np.asarray(exact.logits)[selected], np.asarray(kept.logits)[selected])


def _rounded(top_k: TopK, entry: StoredArray) -> TopK:
    logits = np.asarray(top_k.logits)
    packed = codec.pack_values(logits.reshape(-1, entry.k), entry.bits)
    rounded: Any = codec.unpack_values(packed, entry.k, entry.bits).reshape(logits.shape)
    return dataclasses.replace(top_k, logits=rounded)


def _bucketed(top_k: TopK, selected: Any) -> np.ndarray:
    """Log-probabilities of the stored classes and the rest at the temperature nearest 1."""
    nearest = int(np.argmin(np.abs(np.log(top_k.temperatures))))
    temperature = top_k.temperatures[nearest]
    logits = np.asarray(top_k.logits, np.float64)[selected] / temperature
    tail = np.asarray(top_k.log_tail, np.float64)[selected][..., nearest : nearest + 1]
    return _log_softmax(np.concatenate([logits, tail], axis=-1).reshape(-1, logits.shape[-1] + 1))


def _add_rounded(sums: Sums, entry: StoredArray, exact: np.ndarray, kept: np.ndarray) -> None:
    _add_largest(sums, exact, kept)
    if entry.name.startswith("logits/"):
        rows = (x.reshape(-1, x.shape[-1])[:SAMPLE].astype(np.float64) for x in (exact, kept))
        log_p, log_q = map(_log_softmax, rows)
        sums.kl += _divergence(log_p, log_q)
        sums.compared += len(log_p)


def _divergence(log_p: np.ndarray, log_q: np.ndarray) -> float:
    p = np.exp(log_p)
    return float(np.sum(p * np.subtract(log_p, log_q, where=p > 0, out=np.zeros_like(p))))


def _add_largest(sums: Sums, exact: np.ndarray, kept: np.ndarray) -> None:
    exact, kept = (np.asarray(x, np.float64) for x in (exact, kept))
    finite = np.isfinite(exact) & np.isfinite(kept)
    difference = np.subtract(exact, kept, where=finite, out=np.zeros_like(exact))
    error = np.max(np.abs(difference), initial=0.0)
    sums.largest_error = max(sums.largest_error, float(error))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _by_name(outputs: Outputs) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return named_arrays(outputs), named_masks(outputs)
