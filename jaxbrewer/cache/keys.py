"""Identifies examples by number or content, and digests of content that show a change."""

import functools
import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt64

from ..errors import UsageError

EXAMPLE_ID = "example_id"
"""The batch entry with the number of each example, ``[batch]``; it is not passed to models."""

_NOT_CONTENT = (EXAMPLE_ID, "teacher_cache", "labels")
_LANES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


def content_digests(
    part: Any, names: Collection[str] | None = None
) -> UInt64[np.ndarray, "batch lanes"]:
    """A digest of two 64-bit numbers of each example's teacher inputs.

    Where the batch has an ``attention_mask``, padding does not count, so that an example has the
    same digest in batches of any width.

    Args:
        part: The teacher's part of a batch.
        names: The entries that count; ``None`` takes all but labels and example numbers.

    Returns:
        uint64, ``[batch, 2]``.

    Raises:
        UsageError: No entry is left, or the entries have no common batch axis.

    Examples:
        >>> mask = np.array([[1, 1, 0]])
        >>> wide = content_digests({"ids": np.array([[5, 6, 0]]), "attention_mask": mask})
        >>> slim = content_digests({"ids": np.array([[5, 6]]), "attention_mask": mask[:, :2]})
        >>> bool((wide == slim).all())
        True
    """
    mask = part.get("attention_mask") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping):
        part = {
            name: part[name]
            for name in sorted(part)
            if name not in _NOT_CONTENT and (names is None or name in names)
        }
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_flatten_with_path(part)[0]
    ]
    sizes = {leaf.shape[:1] for _, leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        raise UsageError(
            "The teacher's inputs need one common batch axis to identify examples, got "
            f"{ {name: leaf.shape for name, leaf in leaves} }."
        )
    mask = None if mask is None or np.ndim(mask) != 2 else np.asarray(mask) != 0
    total = np.zeros((*sizes.pop(), 2), np.uint64)
    places = _places(mask) if mask is not None else np.zeros(0, np.uint64)
    for name, leaf in leaves:
        if mask is not None and leaf.shape == mask.shape and leaf.itemsize <= 8:
            total += _mixed(_of_positions(leaf, mask, places) ^ _salt(name))
        else:
            total += _mixed(_of_rows(leaf) ^ _salt(name))
    return total


@functools.lru_cache(maxsize=256)
def _salt(name: str) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=16).digest(), np.uint64)


def _places(mask: np.ndarray) -> np.ndarray:
    """What is added to a number at each position, counted from the first valid one.

    Returns:
        uint64, ``[lanes, batch, positions]``.
    """
    places = np.arange(1, mask.shape[1] + 1) - np.argmax(mask, axis=1)[:, None]
    return _LANES[:, None, None] * places.astype(np.uint64)


def _of_positions(leaf: np.ndarray, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A sum over the valid positions, uint64, ``[batch, lanes]``."""
    return np.where(mask, _mixed(_bits(leaf) + places), np.uint64(0)).sum(axis=-1).T


def _of_rows(leaf: np.ndarray) -> np.ndarray:
    if leaf.dtype.kind in "iub":
        leaf = leaf.astype(np.int64)
    head = f"{leaf.dtype.name} {leaf.shape[1:]} ".encode()
    digests = (hashlib.blake2b(head + row.tobytes(), digest_size=16).digest() for row in leaf)
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2).copy()


def _bits(leaf: np.ndarray) -> np.ndarray:
    if leaf.dtype.kind in "iub":
        return leaf.astype(np.int64).view(np.uint64)
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[leaf.itemsize]
    return np.ascontiguousarray(leaf).view(unsigned).astype(np.uint64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every output bit depends on every input bit."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def keys_of(numbers: np.ndarray) -> list[bytes]:
    """The keys of examples, from their numbers ``[batch]`` or digests ``[batch, 2]``."""
    if numbers.ndim == 1:
        return [int(number).to_bytes(8, "big", signed=True) for number in numbers]
    return [row.tobytes() for row in numbers]


def show_key(key: bytes) -> str:
    """A key as messages show it.

    Examples:
        >>> show_key(keys_of(np.array([17]))[0])
        'example 17'
    """
    if len(key) == 8:
        return f"example {int.from_bytes(key, 'big', signed=True)}"
    return f"example with content {key.hex()}"
