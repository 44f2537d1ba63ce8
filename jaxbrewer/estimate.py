"""What a step needs of each device, from the compiled program, without running it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .functional import Batch, PyTree
from .sharding import Layout, batch_sharding, jit_step
from .state import TrainState


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory of one device in bytes, and work of one device in a step.

    Attributes:
        teacher: The teacher's weights and state.
        student: The student's weights and state, and projections.
        optimizer: The optimizer's state and whatever else the train state holds.
        batch: The batch, or the group of batches of an update.
        activations: The most that the compiled step holds beside these at any time: activations,
            gradients, gathered weights.
        flops: Floating-point operations; of a group of batches, as if all had the first's shape.
        collectives: How often the program communicates, by operation.
        mesh: The axes of the mesh and their sizes; empty for one device.
    """

    teacher: int
    student: int
    optimizer: int
    batch: int
    activations: int
    flops: float
    collectives: dict[str, int]
    mesh: dict[str, int]

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return math.prod(self.mesh.values())

    @property
    def total(self) -> int:
        """All memory; the step writes the new state over the old one."""
        return self.teacher + self.student + self.optimizer + self.batch + self.activations


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def estimate_step(
    step: Callable[..., Any],
    state: TrainState,
    teacher_variables: PyTree,
    batch: Batch,
    layout: Layout,
    *,
    state_shardings: PyTree = None,
    teacher_shardings: PyTree = None,
) -> Estimate:
    """Compiles a step for shapes alone.

    Args:
        step: A pure train step.
        state: A state, or its shapes.
        teacher_variables: The second argument of ``step``, or its shapes.
        batch: The third, or its shapes.
        layout: Its mesh may be one of fake devices.
        state_shardings: Where the state lives; with a mesh.
        teacher_shardings: Where the teacher lives; with a mesh.
    """
    trees, where = [state, teacher_variables, batch], [None, None, None]
    if layout.mesh is not None:
        of_batch = jax.tree.map(lambda leaf: batch_sharding(jnp.shape(leaf), layout), batch)
        where = [state_shardings, teacher_shardings, of_batch]
    arguments: list[Any] = [
        jax.tree.map(_abstract, tree, *([] if each is None else [each]))
        for tree, each in zip(trees, where, strict=True)
    ]
    compiled = jit_step(step, arguments[0], layout).lower(*arguments).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    shapes: TrainState = arguments[0]
    student = _bytes((shapes.trainable, shapes.model_state))
    return Estimate(
        teacher=_bytes(arguments[1]),
        student=student,
        optimizer=_bytes(shapes) - student,
        batch=_bytes(arguments[2]),
        activations=memory.temp_size_in_bytes,
        flops=compiled.cost_analysis().get("flops", 0.0),
        collectives={
            name: count
            for name in COLLECTIVES
            if (count := text.count(f" {name}(") + text.count(f" {name}-start("))
        },
        mesh={} if layout.mesh is None else dict(layout.mesh.shape),
    )


def _abstract(leaf: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        dtype = leaf.dtype  # also that of a PRNG key
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _bytes(tree: PyTree) -> int:
    """Bytes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
