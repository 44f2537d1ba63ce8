"""Scalars of a step in one array per dtype, so that few arrays are returned and read."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Scalars = TypeVar("Scalars")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DeviceScalars(Generic[Scalars]):
    """A pytree of scalars, packed by the compiled step that computes them.

    Attributes:
        vectors: One vector ``[scalars]`` for each dtype.
        places: For each scalar, the number of its vector and its place there.
        structure: The structure of the pytree.
        facts: What was decided while the step was traced, a line each.

    Examples:
        >>> scalars = DeviceScalars.of({"loss": jnp.float32(0.5), "count": jnp.int32(3)})
        >>> scalars.read()
        {'count': 3.0, 'loss': 0.5}
    """

    vectors: tuple[Any, ...]
    places: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})
    facts: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, scalars: Scalars, facts: Iterable[str] = ()) -> Self:
        """Packs the leaves of a pytree, each a scalar."""
        leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, scalars))
        groups: dict[Any, list[jax.Array]] = {}
        for leaf in leaves:
            groups.setdefault(leaf.dtype, []).append(leaf)
        numbers = {dtype: number for number, dtype in enumerate(groups)}
        counters = {dtype: itertools.count() for dtype in groups}
        places = tuple((numbers[leaf.dtype], next(counters[leaf.dtype])) for leaf in leaves)
        return cls(tuple(map(jnp.stack, groups.values())), places, structure, tuple(facts))

    def read(self) -> Scalars:
        """The pytree with floats; waits for the step that computes them, and reads them once."""
        return self._on_host

    @functools.cached_property
    def _on_host(self) -> Scalars:
        vectors = [np.asarray(vector).astype(float).tolist() for vector in self.vectors]
        if len(vectors) == 1:
            return self._tree(vectors[0])
        return self._tree([vectors[number][place] for number, place in self.places])

    @property
    def tree(self) -> Scalars:
        """The pytree with the place of each scalar, known before any is computed."""
        return self._tree(self.places)

    def _tree(self, leaves: Sequence[Any]) -> Scalars:
        tree: Scalars = self.structure.unflatten(leaves)
        return tree

    def is_ready(self) -> bool:
        """Whether the step that computes them has finished, without waiting for it."""
        return bool(self.vectors[-1].is_ready())


class StepScalars(NamedTuple):
    """The scalars of a step.

    Attributes:
        metrics: By name, what is logged.
        is_finite: Whether loss and gradient are finite.
        checks: What :func:`~jaxbrewer.objective.value_checks.report` reads.
    """

    metrics: Mapping[str, Any]
    is_finite: Any = 1.0
    checks: Mapping[str, Any] = {}
