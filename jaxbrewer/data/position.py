"""A position in the data, and how a pass over the data resumes from it.

A position is plain JSON, so a checkpoint stores it in readable form. It names the last batch that
was used. Resuming reads that batch again and compares it with the checksum in the position, which
detects other data and an order that cannot be reproduced.
"""

import base64
import copy
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from ..errors import UsageError
from .conversion import as_pytree, to_numpy

Position: TypeAlias = dict[str, Any]
"""``{"epoch": int, "batch": int, "checksum": int}`` and, for iterators that have one, ``"state"``.

``batch`` counts the batches of the pass that were used. Without ``"checksum"`` nothing is
compared.
"""

_SAMPLED = 1024
_END = object()


def batches_of_pass(dataloader: Any, start: Position | None) -> Iterator[tuple[Any, Any]]:
    """Yields the batches of one pass, each with the state of the iterator before it.

    How a pass resumes depends on what the loader offers:

    * an iterator with ``get_state`` and ``set_state`` (Grain): its state is set;
    * a loader with ``set_position(epoch, batch)`` (those of this package): it starts there;
    * any other loader: the earlier batches are read and skipped.

    Args:
        dataloader: An iterable that is set to its epoch already.
        start: Where to resume; ``None`` starts at the first batch.

    Yields:
        ``(state, batch)``; the state is ``None`` for iterators that have none.

    Raises:
        UsageError: The loader does not yield the batch that ``start`` names.
    """
    skipped = 0
    if start is not None and "state" not in start:
        place = getattr(dataloader, "set_position", None)
        if place is not None:
            place(start["epoch"], start["batch"] - 1)
        else:
            skipped = start["batch"] - 1
    iterator = iter(dataloader)
    has_state = hasattr(iterator, "get_state") and hasattr(iterator, "set_state")
    if start is not None:
        if "state" in start:
            _set_state(iterator, start["state"])
        last = next(itertools.islice(iterator, skipped, None), _END)
        if last is _END or start.get("checksum", checksum(last)) != checksum(last):
            raise UsageError(
                f"The dataloader does not yield batch {start['batch']} of epoch {start['epoch']} "
                "as it did before the interruption: the data differ, or their order depends "
                "on more than the epoch (a loader that shuffles needs a seed and set_epoch)."
            )
    while True:
        state = copy.deepcopy(iterator.get_state()) if has_state else None
        batch = next(iterator, _END)
        if batch is _END:
            return
        yield state, batch


def position_of(epoch: int, batch_in_epoch: int, batch: Any, state: Any = None) -> Position:
    """The position after ``batch``.

    Args:
        epoch: Index of the pass, from 0.
        batch_in_epoch: Number of batches of that pass used, including this one.
        batch: The batch itself.
        state: State of the iterator before the batch, if it has one.
    """
    position = {"epoch": epoch, "batch": batch_in_epoch, "checksum": checksum(batch)}
    return position if state is None else {**position, "state": _encoded(state)}


def without_entries(position: Any, *names: str) -> Any:
    """``position`` and its nested positions without these entries.

    Examples:
        >>> without_entries({"tasks": {"a": {"epoch": 0, "batch": 2, "checksum": 7}}}, "checksum")
        {'tasks': {'a': {'epoch': 0, 'batch': 2}}}
    """
    if not isinstance(position, Mapping):
        return position
    return {
        name: value if name == "state" else without_entries(value, *names)
        for name, value in position.items()
        if name not in names
    }


def checksum(batch: Any) -> int:
    """CRC-32 of a batch: structure, shapes, dtypes, and about 1,000 values of each array.

    Ignores ``"teacher_cache"``: it is computed, and other devices round differently.

    Examples:
        >>> one = {"x": np.arange(4)}
        >>> checksum(one) == checksum({"x": np.arange(4)}), checksum(one) == checksum((1, 2))
        (True, False)
    """
    crc = 0
    if isinstance(batch, Mapping):
        batch = {name: part for name, part in batch.items() if name != "teacher_cache"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(as_pytree(batch)):
        is_data = hasattr(leaf, "__array__") or isinstance(leaf, (int, float, str, bytes))
        array = to_numpy(leaf) if is_data else np.asarray(type(leaf).__name__)
        if array.dtype.kind == "O":
            array = np.asarray(repr(array.tolist()))
        flat = array.reshape(-1)[:: max(1, array.size // _SAMPLED)]
        name = f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape}"
        crc = zlib.crc32(flat.tobytes(), zlib.crc32(name.encode(), crc))
    return crc


def _encoded(state: Any) -> Any:
    """An iterator's state as JSON. Grain's datasets have dicts, its ``DataLoader`` bytes."""
    if isinstance(state, bytes):
        return {"base64": base64.b64encode(state).decode()}
    try:
        return {"json": json.loads(json.dumps(state))}
    except TypeError:
        raise UsageError(
            f"The data iterator's state is {type(state).__name__}, but a checkpoint can hold "
            "only bytes or JSON."
        ) from None


def _set_state(iterator: Any, encoded: Mapping[str, Any]) -> None:
    if not hasattr(iterator, "set_state"):
        raise UsageError(
            "The interrupted run read its data from an iterator with a state, as Grain's are; this "
            f"dataloader's iterator, {type(iterator).__name__}, has none: pass the same loader."
        )
    if "base64" in encoded:
        state = base64.b64decode(encoded["base64"])
    else:
        state = copy.deepcopy(encoded["json"])
    try:
        iterator.set_state(state)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"The dataloader cannot restore its saved state: {reason}.") from None
