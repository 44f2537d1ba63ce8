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
        names, values = tuple(scalars), tuple(scalars.values())
        if not values:
            return cls((), (), ())
        dtypes = list(dict.fromkeys(value.dtype for value in values))
        counts = [0] * len(dtypes)
        places = []
        for value in values:
            number = dtypes.index(value.dtype)
            places.append((number, counts[number]))
            counts[number] += 1
        return cls(names, tuple(places), _packing(values[0].sharding)(values))

    def named(self, vectors: Sequence[np.ndarray | jax.Array]) -> dict[str, float]:
        """The values of ``vectors`` by name."""
        return {
            name: float(vectors[number][place])
            for name, (number, place) in zip(self.names, self.places, strict=True)
        }


@functools.lru_cache
def _packing(sharding: Any) -> Any:
    """A jitted function from scalars to a vector for each of their dtypes."""

    def pack(values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        dtypes = dict.fromkeys(value.dtype for value in values)
        return tuple(jnp.stack([v for v in values if v.dtype == dtype]) for dtype in dtypes)

    return jax.jit(pack, out_shardings=sharding)
