"""Where arrays live: one device, or each batch split over all of them."""

import contextlib
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .configs import TrainingConfig
from .functional import PyTree


def make_mesh(config: TrainingConfig) -> Mesh | None:
    """A mesh of all devices for ``data_parallel``; ``None`` for a single device."""
    devices = jax.devices("cpu") if config.device == "cpu" else jax.devices()
    if not config.data_parallel or len(devices) == 1:
        return None
    # Axes of type Auto: with Explicit ones an embedding lookup in a user's model would not trace.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def on_device(config: TrainingConfig) -> contextlib.AbstractContextManager[Any]:
    """``device="cpu"`` keeps a training on the CPU; anything else means JAX's default device."""
    if config.device == "cpu":
        return jax.default_device(jax.devices("cpu")[0])
    return contextlib.nullcontext()


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """A copy of ``tree`` on every device of the mesh."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_batch(batch: PyTree, mesh: Mesh | None) -> PyTree:
    """Each array split along its first axis, or whole on every device where that does not divide.

    The numbers are the same either way: a step is one program over the whole batch.
    """
    if mesh is None:
        return batch

    def place(leaf: Any) -> jax.Array:
        shape = np.shape(leaf)
        divides = len(shape) > 0 and shape[0] % mesh.size == 0
        spec = PartitionSpec("data") if divides else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, batch)
