"""The mesh of devices that a config describes, and the rules that split arrays over it."""

import contextlib
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from ..configs import TrainingConfig
from ..configs.mesh import MESH_AXES, Rules
from ..errors import UsageError

BATCH_AXES = ("data", "fsdp")
"""The axes of the mesh over which a batch is split."""


@dataclasses.dataclass(frozen=True)
class DeviceLayout:
    """A mesh and the sharding rules of both models; without a mesh, one device holds everything.

    Attributes:
        mesh: The devices, or ``None``.
        student_rules: See :class:`~jaxbrewer.TrainingConfig`.
        teacher_rules: The same for the teacher.
        local_batches: Whether each process's loader yields only its own rows of a batch.
    """

    mesh: Mesh | None = None
    student_rules: Rules = ()
    teacher_rules: Rules = ()
    local_batches: bool = False

    @property
    def loaders(self) -> int:
        """Number of loaders that each yield a part of one batch."""
        return jax.process_count() if self.local_batches else 1


def make_layout(config: TrainingConfig) -> DeviceLayout:
    """The layout that a config describes, on the available devices.

    Raises:
        UsageError: The mesh does not fit the number of devices or of processes.
    """
    mesh = make_mesh(config)
    if config.local_batches and mesh is not None:
        parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.shape)
        if parts % jax.process_count():
            raise UsageError(
                f"TrainingConfig.local_batches: a batch is split into {parts} parts, which "
                f"{jax.process_count()} processes cannot share: the mesh's data x fsdp must be a "
                "multiple of the processes."
            )
    return DeviceLayout(mesh, config.student_rules, config.teacher_rules, config.local_batches)


def make_mesh(config: TrainingConfig) -> Mesh | None:
    """The mesh that a config describes; ``None`` for a single device.

    Raises:
        UsageError: It does not fit the number of devices, or ``device`` is missing here.
    """
    devices = devices_of(config)
    sizes = dict(config.mesh)
    if not sizes and (config.data_parallel or jax.process_count() > 1):
        sizes = {"data": -1}
    axes = tuple(axis for axis in MESH_AXES if axis in sizes)
    known = math.prod(size for size in sizes.values() if size > 0)
    for axis in axes:
        if sizes[axis] == -1:
            sizes[axis] = max(len(devices) // known, 1)
    needed = math.prod(sizes.values())
    if needed > len(devices) or (-1 in config.mesh.values() and needed != len(devices)):
        raise UsageError(
            f"TrainingConfig.mesh {dict(config.mesh)} does not fit the {len(devices)} devices."
        )
    if needed != len(devices) and jax.process_count() > 1:
        raise UsageError(
            f"TrainingConfig.mesh {dict(config.mesh)} takes {needed} of {len(devices)} devices; "
            "with several processes it must take all."
        )
    if needed == 1:
        return None
    # Axes of type Auto: with Explicit ones an embedding lookup in a user's model would not trace.
    return jax.make_mesh(
        tuple(sizes[axis] for axis in axes),
        axes,
        axis_types=(AxisType.Auto,) * len(axes),
        devices=devices[:needed],
    )


def on_device(config: TrainingConfig) -> contextlib.AbstractContextManager[Any]:
    """Makes the config's ``device`` JAX's default device.

    Raises:
        UsageError: It is missing here.
    """
    kind, _, index = config.device.partition(":")
    devices_of(config)
    if kind != "cpu" and not index:
        return contextlib.nullcontext()
    local = jax.local_devices(backend="cpu" if kind == "cpu" else None)
    number = int(index or 0)
    if number >= len(local):
        raise UsageError(
            f"TrainingConfig.device is {config.device!r}, but there are {len(local)} such devices, "
            "counted from 0."
        )
    return jax.default_device(local[number])


def devices_of(config: TrainingConfig) -> list[jax.Device]:
    """All devices of the kind that a config names, of all processes.

    ``"cuda"``, TextBrewer's default, means the accelerator where there is one, else the CPU.

    Raises:
        UsageError: There is none of this kind, or JAX finds no devices at all.

    Examples:
        >>> len(devices_of(TrainingConfig(device="cpu"))) > 0
        True
    """
    kind, _, index = config.device.partition(":")
    if index and not index.isdecimal():
        raise UsageError(f"TrainingConfig.device must end in a number, got {config.device!r}.")
    try:
        devices = jax.devices("cpu") if kind == "cpu" else jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = jax.config.jax_platforms or "any platform"  # type: ignore[attr-defined]
        reason = " ".join(str(error).split()) or "none is installed"
        raise UsageError(f"JAX finds no devices of {wanted}: {reason}.") from None
    found = devices[0].platform
    if kind in ("gpu", "tpu") and found != kind:
        raise UsageError(
            f"TrainingConfig.device is {config.device!r}, but JAX finds only {found} devices: "
            f"install JAX for {kind.upper()}s, or choose the device {found!r}."
        )
    return list(devices)
