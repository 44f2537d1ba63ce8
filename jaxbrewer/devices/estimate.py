"""Estimates a step's memory and work per device from the compiled program, without running it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..configs import TrainingConfig
from ..forward.model import Batch, Model, PyTree
from ..step.state import TrainState
from .mesh import make_layout, on_device
from .sharding import Teachers, batch_sharding, jit_step, state_shardings, teacher_shardings


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory of one device in bytes, and its work in one step.

    Attributes:
        teacher: The teacher's weights and state.
        student: The student's weights and state, and projections.
        optimizer: The optimizer's state and the rest of the train state.
        batch: The batch, or the group of batches of an optimizer step.
        activations: Peak memory of the compiled step beyond these: activations, gradients,
            gathered weights.
        flops: Floating-point operations; of a group of batches, as if all had the first's shape.
        collectives: Number of collective operations in the program, by kind.
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
        """Number of devices."""
        return math.prod(self.mesh.values())

    @property
    def total(self) -> int:
        """Total memory; the step overwrites the old state with the new one."""
        return self.teacher + self.student + self.optimizer + self.batch + self.activations


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def estimate_step(
    step: Callable[[TrainState, PyTree, Batch], Any],
    start: Callable[[PyTree], TrainState],
    weights: PyTree,
    batch: Batch,
    config: TrainingConfig,
    *,
    student: Model,
    teachers: Teachers,
    teacher_variables: PyTree,
) -> Estimate:
    """Compiles a step for shapes only.

    Args:
        step: A pure train step.
        start: Makes the initial state from ``weights``.
        weights: ``{"params": ..., "state": ..., "projections": ...}``.
        batch: The third argument of ``step``.
        config: The mesh, possibly of fake devices, and the sharding rules.
        student: The student.
        teachers: The teachers.
        teacher_variables: The second argument of ``step``.

    Raises:
        UsageError: The mesh or a rule does not fit.
    """
    layout = make_layout(config)
    state = jax.eval_shape(start, weights)
    trees = [state, teacher_variables, batch]
    where: list[PyTree] = [None, None, None]
    if layout.mesh is not None:
        where = [
            state_shardings(state, student, layout),
            teacher_shardings(teacher_variables, teachers, layout),
            jax.tree.map(lambda leaf: batch_sharding(jnp.shape(leaf), layout), batch),
        ]
    arguments: list[Any] = [
        jax.tree.map(_abstract, tree, *([] if each is None else [each]))
        for tree, each in zip(trees, where, strict=True)
    ]
    with on_device(config):
        compiled = jit_step(step, arguments[0], layout).lower(*arguments).compile()
    shapes: TrainState = arguments[0]
    student_bytes = _bytes((shapes.trainable, shapes.model_state))
    text = compiled.as_text()
    return Estimate(
        teacher=_bytes(arguments[1]),
        student=student_bytes,
        optimizer=_bytes(shapes) - student_bytes,
        batch=_bytes(arguments[2]),
        activations=compiled.memory_analysis().temp_size_in_bytes,
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
