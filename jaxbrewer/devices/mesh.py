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
        device: Without a mesh, the device to which arrays are committed; ``None`` leaves the
            choice to JAX.
    """

    mesh: Mesh | None = None
    student_rules: Rules = ()
    teacher_rules: Rules = ()
    local_batches: bool = False
    device: jax.Device | None = None

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
    device = None
    if mesh is None and config.teacher_device is not None:  # one of several devices in use
        device = _student_device(config)
    return DeviceLayout(
        mesh, config.student_rules, config.teacher_rules, config.local_batches, device
    )


def make_teacher_layout(config: TrainingConfig) -> DeviceLayout | None:
    """The layout of a teacher on the config's ``teacher_device``; ``None`` if there is none.

    Several devices are a mesh with the axis ``fsdp``.

    Raises:
        UsageError: A device is missing here or is the student's, or there are several processes.

    Examples:
        >>> make_teacher_layout(TrainingConfig(device="cpu", teacher_device="cpu:0"))
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: TrainingConfig.teacher_device is 'cpu:0', the student's ...
    """
    devices = _teacher_devices(config)
    if not devices:
        return None
    if make_layout(config).device in devices:
        raise UsageError(
            f"TrainingConfig.teacher_device is {config.teacher_device!r}, the student's device: "
            "name another one, or leave it out to run the teacher in the student's step."
        )
    if len(devices) == 1:
        return DeviceLayout(device=devices[0])
    mesh = jax.make_mesh((len(devices),), ("fsdp",), axis_types=(AxisType.Auto,), devices=devices)
    return DeviceLayout(mesh, teacher_rules=config.teacher_rules)


def make_mesh(config: TrainingConfig) -> Mesh | None:
    """The mesh that a config describes; ``None`` for a single device.

    Raises:
        UsageError: It does not fit the number of devices, or ``device`` is missing here.
    """
    of_teacher = _teacher_devices(config)
    devices = [device for device in devices_of(config) if device not in of_teacher]
    sizes = dict(config.mesh)
    if not sizes and (config.data_parallel or jax.process_count() > 1):
        sizes = {"data": -1}
    if not sizes:
        return None
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
    devices = devices_of(config)
    if kind != "cpu" and not index:
        return contextlib.nullcontext()
    return jax.default_device(_numbered("device", config.device, devices))


def on_teacher_device(config: TrainingConfig) -> contextlib.AbstractContextManager[Any]:
    """Makes the first ``teacher_device`` JAX's default device, if the config names one.

    Raises:
        UsageError: It is missing here, or there are several processes.
    """
    devices = _teacher_devices(config)
    return jax.default_device(devices[0]) if devices else contextlib.nullcontext()


def devices_of(config: TrainingConfig) -> list[jax.Device]:
    """All devices of the kind that a config names, of all processes.

    ``"cuda"``, TextBrewer's default, means the accelerator where there is one, else the CPU.

    Raises:
        UsageError: There is none of this kind, or JAX finds no devices at all.

    Examples:
        >>> len(devices_of(TrainingConfig(device="cpu"))) > 0
        True
    """
    is_any = config.device.partition(":")[0] == "cuda"
    return _devices_named("device", config.device, is_any=is_any)


def _teacher_devices(config: TrainingConfig) -> list[jax.Device]:
    """The devices of the config's ``teacher_device``."""
    given = config.teacher_device
    if given is None:
        return []
    if jax.process_count() > 1:
        raise UsageError(
            f"TrainingConfig.teacher_device is {given!r}, but {jax.process_count()} processes "
            "share the training: leave it out, or start one process."
        )
    names = (given,) if isinstance(given, str) else given
    devices = [
        _numbered("teacher_device", name, _devices_named("teacher_device", name)) for name in names
    ]
    kinds = {device.platform for device in devices}
    if len(kinds) > 1 or len(set(devices)) < len(devices):
        raise UsageError(
            f"TrainingConfig.teacher_device must be different devices of one kind, got {given!r}."
        )
    return devices


def _student_device(config: TrainingConfig) -> jax.Device:
    """The device of a student without a mesh."""
    with on_device(config):
        (device,) = jax.device_put(0).devices()
    return device


def _numbered(field: str, name: str, devices: list[jax.Device]) -> jax.Device:
    """The device of a name such as ``"cpu:1"`` among those of its kind in this process."""
    local = [device for device in devices if device.process_index == jax.process_index()]
    number = int(name.partition(":")[2] or 0)
    if number >= len(local):
        raise UsageError(
            f"TrainingConfig.{field} is {name!r}, but there are {len(local)} such devices, "
            "counted from 0."
        )
    return local[number]


def _devices_named(field: str, name: str, *, is_any: bool = False) -> list[jax.Device]:
    """All devices of the kind of a name; with ``is_any``, JAX's default devices."""
    kind, _, index = name.partition(":")
    if index and not index.isdecimal():
        raise UsageError(f"TrainingConfig.{field} must end in a number, got {name!r}.")
    try:
        devices = jax.devices("cpu") if kind == "cpu" else jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = jax.config.jax_platforms or "any platform"  # type: ignore[attr-defined]
        reason = " ".join(str(error).split()) or "none is installed"
        raise UsageError(f"JAX finds no devices of {wanted}: {reason}.") from None
    found, asked = devices[0].platform, "gpu" if kind == "cuda" else kind
    if not is_any and found != asked:
        raise UsageError(
            f"TrainingConfig.{field} is {name!r}, but JAX finds only {found} devices: "
            f"install JAX for {asked.upper()}s, or choose the device {found!r}."
        )
    return list(devices)
