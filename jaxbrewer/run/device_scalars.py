"""Scalars of a step in one array per dtype, so that few arrays are read from the device."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np


class DeviceScalars(NamedTuple):
    """Named scalars on the device.

    Attributes:
        names: All names, in their order.
        places: For each name, the number of its vector and its place there.
        vectors: One vector ``[scalars]`` for each dtype.

    Examples:
        >>> scalars = DeviceScalars.of({"loss": jnp.float32(0.5), "count": jnp.int32(3)})
        >>> scalars.named(scalars.vectors)
        {'loss': 0.5, 'count': 3.0}
    """

    names: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    vectors: tuple[jax.Array, ...]

    @classmethod
    def of(cls, scalars: Mapping[str, jax.Array]) -> Self:
        """Packs scalars, which are on the same devices, without waiting for them."""
        values = tuple(scalars.values())
        if not values:
            return cls((), (), ())
        places, pack = _packing(tuple(value.dtype for value in values), values[0].sharding)
        return cls(tuple(scalars), places, pack(values))

    def named(self, vectors: Sequence[np.ndarray | jax.Array]) -> dict[str, float]:
        """The values of ``vectors`` by name."""
        return {
            name: float(vectors[number][place])
            for name, (number, place) in zip(self.names, self.places, strict=True)
        }


@functools.lru_cache
def _packing(dtypes: tuple[Any, ...], sharding: Any) -> tuple[tuple[tuple[int, int], ...], Any]:
    """The places of scalars of these dtypes in the vectors, and a function that makes these."""
    groups: dict[Any, list[int]] = {}
    for index, dtype in enumerate(dtypes):
        groups.setdefault(dtype, []).append(index)
    numbers = {dtype: number for number, dtype in enumerate(groups)}
    places = tuple(
        (numbers[dtype], groups[dtype].index(index)) for index, dtype in enumerate(dtypes)
    )

    def pack(values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(jnp.stack([values[index] for index in group]) for group in groups.values())

    return places, jax.jit(pack, out_shardings=sharding)
