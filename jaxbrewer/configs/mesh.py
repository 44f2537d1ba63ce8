"""Checks of a mesh and of sharding rules, which need no device."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError, shown, suggest
from ._base import is_int

MESH_AXES = ("data", "fsdp", "tensor")
"""The axes that a mesh may have, outermost first."""

Rules = Sequence[tuple[str, Sequence[Any]]]
"""Pairs of a regular expression and, for each axis of the array, ``None``, an axis of the mesh or
several of them."""


def check_mesh(name: str, mesh: Any) -> None:
    """Raises :class:`UsageError` unless ``mesh`` maps axes to sizes, at most one of them -1."""
    if not isinstance(mesh, Mapping):
        raise UsageError(
            f"{name} must map axes to sizes, such as {{'data': -1}}, got {shown(mesh)}."
        )
    for axis, size in mesh.items():
        if axis not in MESH_AXES:
            raise UsageError(f"{name} has no axis {shown(axis)}: {suggest(axis, MESH_AXES)}")
        if not is_int(size) or (size < 1 and size != -1):
            raise UsageError(
                f"{name}[{shown(axis)}] must be an int >= 1, or -1 for the rest, got {shown(size)}."
            )
    if sum(size == -1 for size in mesh.values()) > 1:
        raise UsageError(f"{name} may have one -1, got {dict(mesh)}.")


def check_rules(name: str, rules: Any, axes: Sequence[str]) -> None:
    """Raises :class:`UsageError` unless ``rules`` are :data:`Rules` over ``axes``."""
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise UsageError(f"{name} must be a list of pairs [pattern, axes], got {shown(rules)}.")
    if rules and not axes:
        raise UsageError(f"{name} need a mesh: set mesh, such as {{'data': -1, 'tensor': 2}}.")
    for index, rule in enumerate(rules):
        where = f"{name}[{index}]"
        is_pair = isinstance(rule, Sequence) and not isinstance(rule, str) and len(rule) == 2
        if not is_pair or not isinstance(rule[0], str) or not isinstance(rule[1], (list, tuple)):
            raise UsageError(
                f"{where} must be a pair such as ['dense/kernel', [null, 'tensor']], got "
                f"{shown(rule)}."
            )
        try:
            re.compile(rule[0])
        except re.error as error:
            raise UsageError(
                f"{where}: {shown(rule[0])} is not a regular expression: {error}."
            ) from None
        _check_spec(where, rule[1], axes)


def _check_spec(where: str, spec: Sequence[Any], axes: Sequence[str]) -> None:
    used: list[str] = []
    for entry in spec:
        names = entry if isinstance(entry, (list, tuple)) else () if entry is None else (entry,)
        for axis in names:
            if axis not in axes:
                raise UsageError(
                    f"{where}: the mesh has no axis {shown(axis)}: {suggest(axis, axes)}"
                )
            if axis in used:
                raise UsageError(f"{where} splits two axes of an array over {shown(axis)}.")
            used.append(axis)
