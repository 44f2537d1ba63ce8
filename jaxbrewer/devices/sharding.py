"""Places arrays on devices: a mesh, and rules that say which axis of which array is split.

A batch is split over the mesh axes ``data`` and ``fsdp``. Each array of the weights follows the
first of these that applies:

1. the user's rules (``student_rules``, ``teacher_rules`` of the :class:`TrainingConfig`);
2. the sharding metadata that Flax modules carry (``nnx.with_partitioning`` and Linen's
   ``nn.with_partitioning``), as far as it names axes that the mesh has;
3. on a mesh with an axis ``fsdp``, its largest divisible axis is split over that axis;
4. it is replicated.

The optimizer's state is placed as its parameters are. Placement changes numbers only by rounding:
a step is one program over the whole batch, whatever the mesh.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..configs.mesh import Rules
from ..forward.model import Batch, Model, PyTree
from ..losses import batch_in_parts
from ..step.state import TrainState, copy_arrays
from .mesh import BATCH_AXES, DeviceLayout
from .partitioning import fsdp_spec, names_of, partition

Teachers: TypeAlias = Model | Sequence[Model] | Mapping[str, Any] | None
"""A teacher, several, or none; or one of these by task."""


def variables_of(teacher: Teachers) -> PyTree:
    """The variables of a teacher, of several, or by task, as a step takes them."""
    return jax.tree.map(
        lambda model: model.variables, teacher, is_leaf=lambda node: isinstance(node, Model)
    )


# -- the state and the teacher --------------------------------------------------------------------


def state_shardings(state: TrainState, student: Model, layout: DeviceLayout) -> TrainState:
    """The ``NamedSharding`` of each array of a state.

    Args:
        state: A state, or its shapes from :func:`jax.eval_shape`.
        student: The student, whose sharding metadata count.
        layout: A layout with a mesh.

    Raises:
        UsageError: A rule does not fit.
    """
    mesh = layout.mesh
    assert mesh is not None
    weights = {
        "params": state.params,
        "state": state.model_state,
        "projections": state.trainable["projections"],
    }
    specs = partition(
        weights,
        mesh,
        layout.student_rules,
        annotations=student.partitioning,
        name="student_rules",
        strip=1,
    )
    of_params = zip(
        jax.tree_util.tree_leaves_with_path(state.params),
        jax.tree.leaves(specs["params"]),
        strict=True,
    )
    known = {names_of(path): (leaf.shape, spec) for (path, leaf), spec in of_params}

    def of_optimizer(path: Any, leaf: Any) -> PartitionSpec:
        """The spec of the weight of the same shape whose path ends this one."""
        names, shape = names_of(path), jnp.shape(leaf)
        for start in range(len(names) + 1):
            found = known.get(names[start:])
            if found is not None and found[0] == shape:
                return found[1]
        return fsdp_spec(shape, mesh)

    whole = dataclasses.replace(
        jax.tree.map(lambda _: PartitionSpec(), state),
        trainable={"student": specs["params"], "projections": specs["projections"]},
        model_state=specs["state"],
        opt_state=jax.tree_util.tree_map_with_path(of_optimizer, state.opt_state),
    )
    return _named(whole, mesh)


def init_state(
    start: Callable[[PyTree], TrainState], weights: PyTree, student: Model, layout: DeviceLayout
) -> TrainState:
    """The initial state, each array created in its place: no device ever holds all of it.

    Args:
        start: Makes the state from ``weights``; see :func:`~jaxbrewer.init_train_state`.
        weights: ``{"params": ..., "state": ..., "projections": ...}``.
        student: The student, whose sharding metadata count.
        layout: The layout.
    """
    if layout.device is not None:
        # Drawn projections are not committed, and neither are given ones: one program copies both.
        projections = jax.device_put(jax.device_get(weights["projections"]))
        weights = {**jax.device_put(weights, layout.device), "projections": projections}
        return jax.device_put(start(weights), layout.device)
    if layout.mesh is None:
        return start(weights)
    shardings = state_shardings(jax.eval_shape(start, weights), student, layout)
    own = {"params": shardings.params, "state": shardings.model_state}
    if weights["projections"] is not None:
        own["projections"] = shardings.trainable["projections"]
    placed = {name: place(weights[name], where) for name, where in own.items()}
    make = jax.jit(start, out_shardings=shardings)
    return make({"projections": None, **placed})


def teacher_shardings(variables: PyTree, teacher: Teachers, layout: DeviceLayout) -> PyTree:
    """The ``NamedSharding`` of each array of a teacher, or of several.

    Args:
        variables: ``{"params": ..., "state": ...}``, a tuple of these, ``None``, or these by task.
        teacher: The model or models, whose sharding metadata count.
        layout: A layout with a mesh.

    Raises:
        UsageError: A rule does not fit.
    """
    if teacher is None:
        return None
    if isinstance(teacher, Mapping):
        return {
            task: teacher_shardings(variables[task], own, layout) for task, own in teacher.items()
        }
    assert layout.mesh is not None
    models = (teacher,) if isinstance(teacher, Model) else tuple(teacher)
    specs = partition(
        variables,
        layout.mesh,
        layout.teacher_rules,
        annotations={path: axes for model in models for path, axes in model.partitioning.items()},
        name="teacher_rules",
        strip=1 if isinstance(teacher, Model) else 2,
    )
    return _named(specs, layout.mesh)


def place_teacher(variables: PyTree, teacher: Teachers, layout: DeviceLayout) -> PyTree:
    """Places the variables of a teacher, or of several, by :func:`teacher_shardings`."""
    if layout.mesh is None or teacher is None:
        return jax.tree.map(jnp.asarray, _on_device(variables, layout))
    return place(variables, teacher_shardings(variables, teacher, layout))


def place_models(teacher: Any, layout: DeviceLayout) -> Any:
    """A teacher, or several, with their variables placed by :func:`place_teacher`."""

    def placed(model: Model, variables: PyTree) -> Model:
        return dataclasses.replace(model, params=variables["params"], state=variables["state"])

    variables = place_teacher(variables_of(teacher), teacher, layout)
    if isinstance(teacher, Model):
        return placed(teacher, variables)
    return tuple(map(placed, teacher, variables))


def place_whole(tree: PyTree, layout: DeviceLayout) -> PyTree:
    """Places arrays whole on each of the layout's devices."""
    if layout.mesh is None:
        return _on_device(tree, layout)
    return jax.device_put(tree, NamedSharding(layout.mesh, PartitionSpec()))


def _on_device(tree: PyTree, layout: DeviceLayout) -> PyTree:
    """The arrays on the device of a layout without a mesh, if it has one."""
    return tree if layout.device is None else jax.device_put(tree, layout.device)


def models_for_use(student: Model, teachers: Teachers, layout: DeviceLayout) -> tuple[Model, Any]:
    """Both models as a step calls them; see :func:`gather_for_use`.

    Args:
        student: The student.
        teachers: A model, or ``None``, or a tuple or a dict of these.
        layout: The mesh and the rules.
    """
    return gather_for_use(student, layout, layout.student_rules), teachers_for_use(teachers, layout)


def teachers_for_use(teachers: Any, layout: DeviceLayout) -> Any:
    """The teachers as a step calls them; see :func:`gather_for_use`."""
    return jax.tree.map(
        lambda model: gather_for_use(model, layout, layout.teacher_rules),
        teachers,
        is_leaf=lambda node: isinstance(node, Model),
    )


def gather_for_use(model: Model, layout: DeviceLayout, rules: Rules) -> Model:
    """The model with its weights gathered along ``fsdp`` where they are used.

    Otherwise the compiler may split activations along axes of the weights, and exchange
    activations instead.
    """
    mesh = layout.mesh
    if mesh is None or mesh.shape.get("fsdp", 1) == 1:
        return model

    def whole(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(_without_fsdp(axis) for axis in spec)))

    specs = partition(model.params, mesh, rules, annotations=model.partitioning, strict=False)
    shardings = jax.tree.map(whole, specs)

    def apply(params: PyTree, state: PyTree, batch: Batch, **keywords: Any) -> tuple[Any, PyTree]:
        gathered = jax.lax.with_sharding_constraint(params, shardings)
        return model.apply(gathered, state, batch, **keywords)

    return dataclasses.replace(model, apply=apply)


def _without_fsdp(axis: Any) -> Any:
    if isinstance(axis, tuple):
        return tuple(name for name in axis if name != "fsdp") or None
    return None if axis == "fsdp" else axis


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Gives each device its part of arrays that every process has whole."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable or getattr(leaf, "is_fully_addressable", True) is False:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)


def gather(tree: PyTree) -> PyTree:
    """Copies of arrays that this process can read; see :func:`readable`."""
    return copy_arrays(tree) if jax.process_count() == 1 else readable(tree)


def readable(tree: PyTree) -> PyTree:
    """Arrays that are whole in this process, however they are spread over processes.

    All processes must call it.
    """
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))


def _named(specs: PyTree, mesh: Mesh) -> PyTree:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


# -- batches and the step -------------------------------------------------------------------------


def batch_sharding(shape: tuple[int, ...], layout: DeviceLayout) -> NamedSharding:
    """The sharding of a batch's array: split along its first axis if divisible, else replicated."""
    mesh = layout.mesh
    assert mesh is not None
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    parts = math.prod(mesh.shape[axis] for axis in axes)
    divides = len(shape) > 0 and shape[0] * layout.loaders % parts == 0
    return NamedSharding(mesh, PartitionSpec(axes) if divides and axes else PartitionSpec())


def place_batch(batch: Batch, layout: DeviceLayout) -> Batch:
    """Splits each array along its first axis; replicates it where that axis is not divisible.

    The numbers are the same either way: a step is one program over the whole batch. With several
    processes, each gives its devices their rows; see ``local_batches`` of the
    :class:`~jaxbrewer.TrainingConfig`.
    """
    if layout.mesh is None:
        return _on_device(batch, layout)

    def put(leaf: Any) -> jax.Array:
        sharding = batch_sharding(np.shape(leaf), layout)
        if layout.loaders == 1 or not np.shape(leaf):
            return place(leaf, sharding)
        if sharding.is_fully_replicated:
            return place(multihost_utils.process_allgather(np.asarray(leaf), tiled=True), sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, batch)


def jit_step(step: Callable[..., Any], state: PyTree, layout: DeviceLayout) -> Any:
    """The jitted train step, which donates the state and returns the next one in the same place."""
    if layout.mesh is None:
        return jax.jit(step, donate_argnums=0)
    kept = jax.tree.map(lambda leaf: leaf.sharding, state)
    replicated = NamedSharding(layout.mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=(kept, replicated))


def trace_for(step: Callable[..., Any], layout: DeviceLayout) -> Callable[..., Any]:
    """A step that is traced for a batch split over the layout's devices.

    Losses that are computed in chunks then take a part of each chunk from every device.
    """
    sizes = {} if layout.mesh is None else layout.mesh.shape
    parts = math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)

    @functools.wraps(step)
    def traced(*arguments: Any) -> Any:
        with batch_in_parts(parts):
            return step(*arguments)

    return traced
