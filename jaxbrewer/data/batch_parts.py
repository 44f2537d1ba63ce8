"""Which part of a batch each model gets, and which entries only the objective reads."""

from collections.abc import Mapping
from typing import Any

Batch = Any

OBJECTIVE_ENTRIES = ("teacher_cache", "teacher_id", "teacher_weights", "example_id")
"""Entries of a batch that are not passed to any model."""


def is_split(batch: Batch) -> bool:
    """Whether a batch is ``{"teacher": ..., "student": ...}``."""
    return isinstance(batch, Mapping) and "teacher" in batch and "student" in batch


def student_part(batch: Batch) -> Batch:
    """The part of a batch that the student and its adaptor see."""
    return _without_objective_entries(batch["student"] if is_split(batch) else batch)


def teacher_part(batch: Batch) -> Batch:
    """The part that the teacher and its adaptor see, or a tuple of parts for several teachers."""
    return _without_objective_entries(batch["teacher"] if is_split(batch) else batch)


def objective_entry(batch: Batch, name: str) -> Any:
    """One of :data:`OBJECTIVE_ENTRIES`, or ``None`` if the batch has none."""
    return batch.get(name) if isinstance(batch, Mapping) else None


def _without_objective_entries(batch: Batch) -> Batch:
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name not in OBJECTIVE_ENTRIES}
    return batch
