"""Turns sharding rules and metadata into a ``PartitionSpec`` for each array."""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ..configs.mesh import Rules
from ..errors import UsageError
from ..forward.model import PyTree

SMALLEST_SPLIT = 2**10
"""Smaller arrays are not split without a rule: gathering them costs more than it saves."""


def partition(
    tree: PyTree,
    mesh: Mesh,
    rules: Rules = (),
    *,
    annotations: Mapping[str, Any] = MappingProxyType({}),
    name: str = "rules",
    strip: int = 0,
    strict: bool = True,
) -> PyTree:
    """A :class:`~jax.sharding.PartitionSpec` for each array of ``tree``.

    Args:
        tree: Arrays, or anything with a shape.
        mesh: The mesh.
        rules: Pairs of pattern and axes.
        annotations: By path, the axes in a module's metadata.
        name: The name of the rules in messages.
        strip: Number of leading names of each path that patterns do not see.
        strict: Whether a rule that matches no path is an error.

    Raises:
        UsageError: A rule matches no path or has too many axes, or an axis is not divisible.

    Examples:
        >>> mesh = jax.sharding.AbstractMesh((2,), ("tensor",))
        >>> tree = {"dense": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
        >>> specs = partition(tree, mesh, [["dense/kernel", [None, "tensor"]]])
        >>> tuple(specs["dense"]["kernel"]), tuple(specs["dense"]["bias"])
        ((None, 'tensor'), ())
    """
    used: set[int] = set()

    def spec_of(path: Any, leaf: Any) -> PartitionSpec:
        shape, where = jnp.shape(leaf), "/".join(names_of(path)[strip:])
        for index, (pattern, axes) in enumerate(rules):
            if re.search(pattern, where):
                used.add(index)
                what = f"{name}[{index}] ({pattern!r}): {where} {list(shape)}"
                return _checked(PartitionSpec(*axes), shape, mesh, what)
        asked = PartitionSpec(*(_known(axis, mesh) for axis in annotations.get(where, ())))
        if any(asked):
            return _checked(asked, shape, mesh, f"The model's sharding of {where} {list(shape)}")
        return fsdp_spec(shape, mesh)

    specs = jax.tree_util.tree_map_with_path(spec_of, tree)
    for index, (pattern, _) in enumerate(rules):
        if strict and index not in used:
            paths = [
                "/".join(names_of(path)[strip:])
                for path, _ in jax.tree_util.tree_leaves_with_path(tree)
            ]
            raise UsageError(
                f"{name}[{index}]: {pattern!r} matches no weight that earlier rules do not "
                f"match. The first of {len(paths)} paths are {', '.join(map(repr, paths[:5]))}."
            )
    return specs


def fsdp_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Splits the largest axis that ``fsdp`` divides; small arrays are not split.

    Examples:
        >>> mesh = jax.sharding.AbstractMesh((4,), ("fsdp",))
        >>> [tuple(fsdp_spec(shape, mesh)) for shape in [(30, 64), (64,), (1025, 3)]]
        [(None, 'fsdp'), (), ()]
    """
    size = mesh.shape.get("fsdp", 1)
    if size == 1 or math.prod(shape) < SMALLEST_SPLIT:
        return PartitionSpec()
    for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
        if shape[axis] % size == 0:
            return PartitionSpec(*[None] * axis, "fsdp")
    return PartitionSpec()


def _known(axis: Any, mesh: Mesh) -> Any:
    """The axes of an annotation that the mesh has."""
    if isinstance(axis, (list, tuple)):
        return tuple(name for name in axis if name in mesh.shape) or None
    return axis if axis in mesh.shape else None


def _checked(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh, where: str) -> PartitionSpec:
    if len(spec) > len(shape):
        raise UsageError(f"{where} has fewer axes than {list(spec)}.")
    for axis, names in enumerate(spec):
        names = names if isinstance(names, tuple) else () if names is None else (names,)
        parts = math.prod(mesh.shape[name] for name in names)
        if shape[axis] % parts:
            raise UsageError(
                f"{where}: axis {axis} cannot be split over {' x '.join(names)} = {parts}."
            )
    return spec


def names_of(path: Any) -> tuple[str, ...]:
    """The names in a key path of :func:`jax.tree_util.tree_leaves_with_path`."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
