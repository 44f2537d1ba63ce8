"""A batch of any library, checked and as arrays; its size and its signature."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import UsageError
from .batch_parts import OBJECTIVE_ENTRIES, Batch, is_split, student_part
from .conversion import as_arrays

_LABELS = ("label", "labels", "target", "targets", "y", "example_id")


def as_batch(batch: Any) -> Batch:
    """The arrays of a batch, after a look at whether it is one.

    Args:
        batch: What a dataloader yields, after ``batch_postprocessor``; see
            :func:`~jaxbrewer.data.conversion.as_arrays`.

    Raises:
        UsageError: It holds no arrays or no examples, is a single example, or an entry does not
            convert to an array.

    Examples:
        >>> as_batch({"x": [[1.0, 2.0]], "labels": [1]})
        {'x': array([[1., 2.]]), 'labels': array([1])}
        >>> as_batch({"x": [1.0, 2.0], "labels": 1})
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: The dataloader yields single examples, not batches...
    """
    if isinstance(batch, Mapping):
        for name in batch:
            if not isinstance(name, str):
                raise UsageError(f"The entries of a batch must have names, got the key {name!r}.")
    if isinstance(batch, list) and batch and all(isinstance(item, Mapping) for item in batch):
        raise UsageError(
            f"The dataloader yields a list of {len(batch)} dicts, not a batch: collate them into "
            "one dict of arrays, np.stack for each entry."
        )
    arrays = as_arrays(batch)
    parts = [student_part(arrays)]
    if is_split(arrays):
        given = arrays["teacher"]
        parts += given if isinstance(given, tuple) else [given]
    for part in parts:
        _check_part(part)
    return arrays


def batch_size(batch: Batch) -> int:
    """Number of examples in a batch: the length of its first array that has an axis."""
    part = batch["student"] if is_split(batch) else batch
    leaves = [leaf for leaf in jax.tree.leaves(part) if np.ndim(leaf)]
    return len(leaves[0]) if leaves else 1


def signature(batch: Batch) -> Any:
    """Structure, shapes and dtypes of a batch of arrays; a step compiles once for each."""
    return _signature_of(*jax.tree.flatten(batch))


class ReadBatch(NamedTuple):
    """A batch as :class:`BatchReader` returns it.

    Attributes:
        arrays: From :func:`as_batch`.
        shape: A number for its structure, shapes and dtypes, from 0 in the order of arrival.
        size: Number of examples.
    """

    arrays: Batch
    shape: int
    size: int


class BatchReader:
    """Reads batches by :func:`as_batch`, once for each signature.

    :func:`as_batch` looks at structure, shapes and dtypes only and leaves its own results
    unchanged, so a batch of arrays with the signature of an earlier result is returned as it is.

    Examples:
        >>> read = BatchReader()
        >>> read({"x": [[1.0, 2.0]], "labels": [1]}).size
        1
        >>> batch = {"x": np.zeros((1, 2)), "labels": np.zeros(1, int)}
        >>> read(batch).arrays is batch
        True
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[int, int]] = {}

    def __call__(self, batch: Any) -> ReadBatch:
        """Reads a batch.

        Raises:
            UsageError: It is not a batch.
        """
        known = self._known.get(_signature_if_arrays(batch))
        if known is None:
            batch = as_batch(batch)
            known = len(self._known), batch_size(batch)
            known = self._known.setdefault(signature(batch), known)
        return ReadBatch(batch, *known)


def _signature_of(leaves: Sequence[Any], structure: Any) -> Any:
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _signature_if_arrays(batch: Any) -> Any:
    """The signature of a batch whose leaves are all arrays already; ``None`` of another."""
    try:
        leaves, structure = jax.tree.flatten(batch)
    except ValueError:  # a dict whose keys cannot be sorted, which as_batch refuses
        return None
    holds = all(type(leaf) is np.ndarray or isinstance(leaf, jax.Array) for leaf in leaves)
    return _signature_of(leaves, structure) if holds else None


def _check_part(part: Batch) -> None:
    """Checks the part of a batch that one model sees."""
    if isinstance(part, Mapping):
        part = {name: value for name, value in part.items() if name not in OBJECTIVE_ENTRIES}
    sizes = [len(leaf) if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(part)]
    if not sizes or not all(sizes):
        _check_leaves(part)
    _check_lists(part)


def _check_leaves(part: Batch) -> None:
    """Checks a batch some of whose leaves are numbers or have no examples."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }
    if not leaves:
        raise UsageError(
            "The dataloader yields a batch without arrays"
            + (f", {part!r}." if part is None or not part else ".")
        )
    arrays = {name: leaf for name, leaf in leaves.items() if np.ndim(leaf)}
    if arrays and not any(len(leaf) for leaf in arrays.values()):
        name, leaf = next(iter(arrays.items()))
        raise UsageError(
            f"The dataloader yields a batch without examples: {_entry(name)} is of shape "
            f"{np.shape(leaf)}."
        )
    numbers = [name for name in leaves if name not in arrays]
    if numbers and _is_example(arrays, numbers):
        raise UsageError(
            f"The dataloader yields single examples, not batches: {_entry(numbers[0])} is one "
            "number. Batch them, with ArrayLoader, dataset.batch(n) or a DataLoader; a value for a "
            "whole batch is an argument, train(..., name=value)."
        )


def _is_example(arrays: Mapping[str, Any], numbers: list[str]) -> bool:
    """Whether a batch that holds single numbers is one example.

    The arrays of a batch share their first axis and one of them has a second; an example has a
    single array, or token sequences, or its label is a number.
    """
    is_named = any(name.rpartition(".")[2].lower() in _LABELS for name in numbers)
    return is_named or len(arrays) < 2 or all(np.ndim(leaf) == 1 for leaf in arrays.values())


def _check_lists(part: Batch) -> None:
    """Refuses a list of one array per example; lists of layers hold whole batches."""
    if not isinstance(part, Mapping) or not any(map(_is_list, part.values())):
        return
    sizes = {value.shape[0] for value in part.values() if getattr(value, "shape", ())}
    for name, value in part.items():
        if not _is_list(value) or sizes != {len(value)}:
            continue
        shapes = {np.shape(item) for item in value if hasattr(item, "shape")}
        if len(shapes) == 1 and all(shape and shape[0] != len(value) for shape in shapes):
            raise UsageError(
                f"The batch entry {name!r} is a list of {len(value)} arrays of shape "
                f"{shapes.pop()}, one per example: give one array, np.stack(list)."
            )


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple) and not hasattr(value, "_fields")


def _entry(name: str) -> str:
    return f"its entry {name!r}" if name else "it"
