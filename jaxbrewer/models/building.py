"""Models built from the tensors of files, each placed as soon as it is read."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding

from ..configs.mesh import Rules
from ..devices.partitioning import partition
from ..errors import UsageError, log_warning
from .config import TransformerConfig
from .families import Family
from .heads import TransformerModel
from .int8 import int8_kernel, quantize_int8
from .pooling import DENSE
from .tensor_names import (
    WeightPath,
    canonical_names,
    flat_weights,
    is_transposed,
    names_of_layers,
    starts,
    tensor_name,
)
from .weight_files import WeightFiles

logger = logging.getLogger("jaxbrewer")

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How weights are held.

    Attributes:
        dtype: Their floating-point type.
        mesh: The mesh over which each is split; ``None`` for one device.
        rules: Sharding rules; an array that none matches is split along ``fsdp``.
        int8: Whether the kernels of all layers are quantised.
    """

    dtype: Any = jnp.float32
    mesh: Mesh | None = None
    rules: Rules = ()
    int8: bool = False

    def shardings(self, weights: Any) -> dict[WeightPath, Sharding | None]:
        """Where each weight is placed.

        Raises:
            UsageError: A rule does not fit.
        """
        if self.mesh is None:
            return dict.fromkeys(flat_weights(weights))
        specs = partition(nnx.to_pure_dict(weights), self.mesh, self.rules)
        mesh = self.mesh
        return {path: NamedSharding(mesh, spec) for path, spec in flat_weights(specs).items()}

    def put(
        self,
        shape: tuple[int, ...],
        sharding: Sharding | None,
        read: Callable[[Index | None], np.ndarray],
    ) -> jax.Array:
        """An array, of which a host reads only the parts that its devices hold."""
        if sharding is None:
            return jnp.array(read(None).astype(self.dtype, order="C"))
        known: dict[str, np.ndarray] = {}

        def part(index: Index | None) -> np.ndarray:
            if str(index) not in known:
                known[str(index)] = read(index).astype(self.dtype, order="C")
            return known[str(index)]

        return jax.make_array_from_callback(shape, sharding, part)


def build(
    head: type[TransformerModel],
    family: Family,
    config: TransformerConfig,
    files: WeightFiles,
    *,
    layers: Sequence[int] | None,
    new_head: bool,
    seed: int,
    placement: Placement,
) -> TransformerModel:
    """Builds the model from the tensors of the files; missing ones get random weights.

    ``layers`` are those of the files that become the model's, in its order; ``None`` for all.

    Raises:
        UsageError: A tensor of the model without its head is missing or has another shape, or a
            sharding rule does not fit.
    """
    make: Any = head
    abstract = without_arrays(make, config)
    weights = nnx.state(abstract, nnx.Param)
    shapes, shardings = flat_weights(weights), placement.shardings(weights)
    if placement.int8:
        abstract = without_arrays(lambda *args, **rngs: quantize_int8(make(*args, **rngs)), config)
    graph, *parts = nnx.split(abstract, nnx.Param, ...)
    kinds, rest = flat_weights(parts[0]), parts[1]
    names = canonical_names(files, family)
    if layers is not None:
        names = names_of_layers(names, head.stack, layers)
    wanted = {path: tensor_name(path, family) for path in shapes}
    heads = starts(fresh for fresh in family.fresh if not fresh.startswith(f"{family.body}."))
    replaced = {name for name in wanted.values() if new_head and name.startswith(heads)}
    found = {path: name for path, name in wanted.items() if name in names and name not in replaced}
    _report(files, family, names, wanted, found, replaced)

    draw = np.random.default_rng(seed)  # NumPy's has nothing to compile
    leaves = {}
    for path, leaf in shapes.items():
        if path in found:
            stored = names[found[path]]
            read = _reader(files, family, path, stored, leaf.shape)
        else:
            read = _whole(_drawn(path, leaf.shape, config, draw))
        array = placement.put(leaf.shape, shardings[path], read)
        if kinds[path].dtype == jnp.int8:
            array, leaves[(*path[:-1], "kernel_scale")] = int8_kernel(array)
        leaves[path] = array

    keys = map(functools.partial(jax.random.fold_in, jax.random.key(seed)), itertools.count())

    def start(leaf: Any) -> jax.Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return next(keys) if is_key else jnp.array(np.zeros(leaf.shape, leaf.dtype))

    streams = jax.tree.map(start, nnx.to_pure_dict(rest))
    model: TransformerModel = nnx.merge(graph, nnx.traversals.unflatten_mapping(leaves), streams)
    model.eval()
    return model


def without_arrays(make: Callable[..., Any], config: TransformerConfig) -> Any:
    """The model ``make(config, rngs=...)`` with shapes in place of arrays.

    Draws are counted in a NumPy array. A traced counter would take most of the time: Flax asks it
    for its sharding at each draw, and JAX writes an error message for which it searches all
    equations.
    """

    def traced() -> Any:
        rngs = nnx.Rngs(0)
        count: Any = np.zeros((), np.uint32)
        rngs.default.count = nnx.RngCount(count, tag=rngs.default.tag)
        return make(config, rngs=rngs)

    return nnx.eval_shape(traced)


def _reader(
    files: WeightFiles, family: Family, path: WeightPath, stored: str, shape: tuple[int, ...]
) -> Callable[[Index | None], np.ndarray]:
    """Reads a part of a tensor in our order of axes.

    Raises:
        UsageError: The tensor has another shape.
    """
    flipped = is_transposed(path, family)
    given = files.tensors[stored].shape
    given = given[::-1] if flipped else given
    if given != shape:
        _refuse_shape(files, family, stored, path, given, shape)

    def read(index: Index | None) -> np.ndarray:
        part = files.read(stored, index[::-1] if flipped and index is not None else index)
        return part.T if flipped else part

    return read


def _whole(array: np.ndarray) -> Callable[[Index | None], np.ndarray]:
    return lambda index: array if index is None else array[index]


def _drawn(
    path: WeightPath, shape: tuple[int, ...], config: TransformerConfig, draw: np.random.Generator
) -> np.ndarray:
    """Initial values: normal for matrices, 1 for the scales of norms, 0 for biases."""
    if path[-1] == "scale":
        return np.ones(shape)
    return draw.normal(0.0, config.initializer_range if path[-1] == "kernel" else 0.0, shape)


def _report(
    files: WeightFiles,
    family: Family,
    names: Mapping[str, str],
    wanted: Mapping[WeightPath, str],
    found: Mapping[WeightPath, str],
    replaced: set[str],
) -> None:
    """Logs what gets random weights and what is not used; refuses files without the encoder."""
    missing = [name for path, name in wanted.items() if path not in found]
    fresh = starts((*family.fresh, DENSE))
    lacking = [name for name in missing if not name.startswith(fresh)]
    if lacking:
        raise UsageError(
            f"{files.where} lacks {len(lacking)} tensors of the model: {_listed(lacking)}. "
            f"It has {_listed(list(names.values()))}."
        )
    there = [name for name in missing if name in replaced and name in names]
    absent = [name for name in missing if name not in there]
    if there:
        log_warning(f"Replaced by random weights: {_listed(there)}")
    if absent:
        log_warning(f"Not in {files.where}, starts from random weights: {_listed(absent)}")
    unused = set(names) - set(wanted.values())
    heads = starts((*family.fresh, *family.other_heads))
    expected = [name for name in unused if name.startswith(heads)]
    if expected:
        logger.info("Heads in %s that this model lacks: %s", files.where, _listed(expected))
    surprising = unused.difference(expected)
    if surprising:
        log_warning(f"In {files.where} but not in the model: {_listed(surprising)}")


def _listed(names: Sequence[str] | set[str]) -> str:
    some = sorted(names)[:4]
    return ", ".join(some) + (f" and {len(names) - len(some)} more" if len(names) > 4 else "")


def _refuse_shape(
    files: WeightFiles,
    family: Family,
    name: str,
    path: WeightPath,
    given: Sequence[int],
    wanted: Sequence[int],
) -> None:
    if is_transposed(path, family):
        given, wanted = given[::-1], wanted[::-1]
    is_head = path[0] != family.body
    remedy = " Give num_labels as the file has it, or new_head=True." if is_head else ""
    raise UsageError(
        f"{files.where} {name} has shape {list(given)}, the config asks for {list(wanted)}.{remedy}"
    )
