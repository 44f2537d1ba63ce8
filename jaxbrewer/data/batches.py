"""A batch of any library as arrays; its size and its signature."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..errors import UsageError
from .batch_parts import Batch, is_split


def batch_size(batch: Batch) -> int:
    """Number of examples in a batch: the length of its first array that has an axis."""
    part = batch["student"] if is_split(batch) else batch
    leaves = [leaf for leaf in jax.tree.leaves(part) if np.ndim(leaf)]
    return len(leaves[0]) if leaves else 1


def as_arrays(batch: Batch) -> Batch:
    """Turns the tensors, numbers and lists of numbers of a batch into NumPy or JAX arrays.

    Raises:
        UsageError: An entry holds something else, such as text; the message names it.

    Examples:
        >>> as_arrays({"ids": [[1, 2]], "pair": (1.5, np.zeros(2))})
        {'ids': array([[1, 2]]), 'pair': (array(1.5), array([0., 0.]))}
        >>> as_arrays({"text": ["a", "b"]})
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: The batch entry 'text' holds str, not numbers: leave it out...
    """
    return _as_arrays(batch, "")


def _as_arrays(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_arrays(item, f"{path}.{key}".strip(".")) for key, item in value.items()}
    if isinstance(value, (np.ndarray, jax.Array)) and value.dtype.kind not in "OUS":
        return value
    if not jax.tree_util.all_leaves([value]) and not isinstance(value, (list, tuple)):
        return jax.tree.map(as_arrays, value)  # None, or a dataclass of arrays
    if isinstance(value, (list, tuple)) and not _is_numbers(value):
        if path and isinstance(value, list) and value and isinstance(value[0], str):
            value = value[0]
        else:
            return tuple(_as_arrays(item, f"{path}[{i}]") for i, item in enumerate(value))
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        raise UsageError(
            f"The batch entry {path!r} holds {type(value).__name__}, not numbers: leave it out, or "
            "turn it into arrays in batch_postprocessor."
        )
    return array


def _is_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_numbers, value))
    return isinstance(value, (int, float))


def signature(batch: Batch) -> Any:
    """Structure, shapes and dtypes of a batch; a step compiles once for each signature."""
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple((np.shape(leaf), np.asarray(leaf).dtype.name) for leaf in leaves)
