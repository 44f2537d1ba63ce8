"""What a checkpoint consists of: two parts of the train state, and a record that describes them."""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import Any, TypedDict, cast

from ..checksums import checksums, leaves_by_path
from ..data.position import Position
from ..errors import UsageError
from ..forward.model import PyTree
from ..json_files import conform
from ..step.state import TrainState, evaluation_params
from .retention import CheckpointInfo


class DamagedError(Exception):
    """A checkpoint that cannot be read, or not as it was written."""


class CheckpointRecord(TypedDict):
    """The metadata of a checkpoint, as JSON.

    Attributes:
        step: See :class:`~jaxbrewer.run.retention.CheckpointInfo`, like the next two.
        number: See there.
        scheduled: See there.
        positions: Where each process resumes reading its data.
        arrays: Dtype, shape and checksum of each array, by path.
        crc: A CRC-32 of all of these.
    """

    step: int
    number: int
    scheduled: bool
    positions: list[dict[str, Any]]
    arrays: dict[str, list[Any]]
    crc: int


def parts_of(state: TrainState) -> dict[str, PyTree]:
    """Splits a state into ``student`` (weights and mutable state) and ``training`` (the rest).

    ``student`` holds the weights for evaluation; where an optimizer trains others, these are in
    ``training``.
    """
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    trainable, model_state = dict(rest.pop("trainable")), rest.pop("model_state")
    params = evaluation_params(state)
    if params is state.params:
        del trainable["student"]
    student = {"params": params, "state": model_state}
    return {"student": student, "training": {**rest, "trainable": trainable}}


def state_from(parts: Mapping[str, PyTree], like: TrainState) -> TrainState:
    """The inverse of :func:`parts_of`; ``like`` has the fields that no checkpoint holds."""
    student, training = parts["student"], dict(parts["training"])
    trainable = {"student": student["params"], **training.pop("trainable")}
    return dataclasses.replace(like, trainable=trainable, model_state=student["state"], **training)


def make_record(info: CheckpointInfo, parts: PyTree, positions: list[Position]) -> CheckpointRecord:
    """The metadata of a checkpoint.

    Args:
        info: Its step and number.
        parts: From :func:`parts_of`.
        positions: Where each process resumes reading its data.
    """
    sums = checksums(parts)
    record: dict[str, Any] = {
        **dataclasses.asdict(info),
        "positions": positions,
        "arrays": {name: [*array, sums[name]] for name, array in _described(parts).items()},
    }
    return cast(CheckpointRecord, {**record, "crc": _crc(record)})


def checked_record(record: Any, step: int) -> CheckpointRecord:
    """The record of the checkpoint of a step, as :func:`make_record` returned it.

    Raises:
        DamagedError: It was changed, or belongs to another step.
    """
    try:
        checked = conform(record, CheckpointRecord, "its metadata")
    except UsageError as error:
        raise DamagedError(str(error).rstrip(".")) from None
    if checked["crc"] != _crc(checked):
        raise DamagedError("the checksum of its metadata does not match")
    if checked["step"] != step:
        raise DamagedError(f"it was saved after step {checked['step']}")
    return checked


def refuse_changed_arrays(record: CheckpointRecord, loaded: PyTree) -> None:
    """Raises :class:`DamagedError` if arrays are not those that ``record`` describes."""
    saved = record["arrays"]
    changed = [name for name, value in checksums(loaded).items() if saved[name][2] != value]
    if changed:
        raise DamagedError(f"the checksum of {', '.join(changed[:3])} does not match")


def refuse_other_structure(record: CheckpointRecord, wanted: PyTree) -> None:
    """Raises :class:`UsageError` if a checkpoint holds other arrays than ``wanted`` has."""
    saved, expected = record["arrays"], _described(wanted)

    def shown(arrays: Mapping[str, list[Any]], name: str) -> str:
        return "{}{}".format(*arrays[name]) if name in arrays else "missing"

    other = [
        f"{name} is {shown(saved, name)} there and {shown(expected, name)} here"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name, [])[:2] != expected.get(name)
    ]
    if other:
        more = f", and {len(other) - 3} more" if len(other) > 3 else ""
        raise UsageError(
            f"The checkpoint of step {record['step']} belongs to another model or optimizer: "
            f"{'; '.join(other[:3])}{more}."
        )


def _described(parts: PyTree) -> dict[str, list[Any]]:
    """Dtype and shape of each array, by path."""
    return {
        name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves_by_path(parts).items()
    }


def _crc(record: Mapping[str, Any]) -> int:
    rest = {name: value for name, value in record.items() if name != "crc"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())
