"""Reads and writes one checkpoint directory through Orbax, with one reason where it fails."""

import contextlib
import functools
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ..checksums import leaves_by_path
from ..errors import reason_of
from ..forward.model import PyTree
from .checkpoint_record import CheckpointRecord, DamagedError, checked_record

UNFINISHED = ".orbax-checkpoint-tmp"
"""In the names of directories that Orbax is still writing."""

_KEY = "jaxbrewer"


def write_checkpoint(path: Path, parts: PyTree, record: CheckpointRecord) -> str | None:
    """Writes a checkpoint atomically: the directory has its name only once it is complete.

    Args:
        path: The directory, which must not exist.
        parts: Nested dicts of arrays.
        record: Its metadata.

    Returns:
        ``None``, or what the operating system reports if it refuses.
    """
    with _without_noise():
        try:
            ocp.save_checkpointables(path, parts, custom_metadata={_KEY: dict(record)})
        except (OSError, ValueError) as error:
            reason = _reason_on_disk(error)
            if reason is None:
                raise
            _wait_for_stray_tasks()
            return reason
    return None


def read_record(path: Path) -> CheckpointRecord:
    """The metadata of the checkpoint of the step that its directory is named after.

    Raises:
        DamagedError: It cannot be read, was changed, or belongs to another step.
    """
    record = _or_damaged(lambda: ocp.checkpointables_metadata(path).custom_metadata[_KEY])
    return checked_record(record, int(path.name))


def read_parts(path: Path, template: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The parts of a checkpoint that ``template`` names, each array placed as described there.

    Args:
        path: The checkpoint.
        template: For each part, a tree of arrays or of their shapes.

    Raises:
        DamagedError: They cannot be read.
    """

    def one(name: str) -> PyTree:
        described = jax.tree.map(_abstract, template[name])
        return ocp.load_checkpointables(path, {name: described})[name]

    return {name: _or_damaged(functools.partial(one, name)) for name in template}


def read_unknown_part(path: Path, name: str, arrays: Mapping[str, Any]) -> PyTree:
    """A part whose structure the caller does not know, as nested dicts on the default device.

    Args:
        path: The checkpoint.
        name: The part.
        arrays: The record's description of all arrays, by path.

    Raises:
        DamagedError: It cannot be read, or arrays are missing.
    """
    saved = _or_damaged(lambda: ocp.checkpointables_metadata(path).metadata[name])
    template = {name: jax.tree.map(_abstract, saved)}
    known = {array for array in arrays if array.startswith(f"{name}/")}
    if leaves_by_path(template).keys() != known:
        raise DamagedError("its metadata lacks arrays")
    return read_parts(path, template)[name]


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of an array; a saved array goes to the default device."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _or_damaged(read: Callable[[], Any]) -> Any:
    """Calls ``read``; a failure becomes one :class:`DamagedError`, without Orbax's own output."""
    with _without_noise(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except Exception as error:
            reason = _first_words(error.__cause__ or error)
        _wait_for_stray_tasks()
    raise DamagedError(reason)


def _first_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Silences Orbax, which logs each failure many times with tracebacks; we report it once."""
    silent, hook = logging.Filter("nothing"), sys.unraisablehook
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for logger in loggers:
        logger.addFilter(silent)
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(silent)


def _wait_for_stray_tasks() -> None:
    """Waits for the tasks that Orbax leaves running after a failure, which log as they end."""
    gc.collect()
    time.sleep(0.2)


def _reason_on_disk(error: BaseException) -> str | None:
    """What the operating system reports, if that is why a save failed."""
    is_of_disk = isinstance(error, OSError) or "[os_error_code=" in str(error)
    return reason_of(error) if is_of_disk else None
