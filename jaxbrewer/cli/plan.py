"""``jaxbrewer plan``: estimates what a job needs of each device, without running it."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from ..configs import OptimizationConfig
from ..errors import UsageError
from ..text import Encoded, Task
from .config import Job
from .messages import report_wait
from .output import format_bytes, print_line, print_table
from .preparation import PreparedDistillation, prepare_distillation, print_untrained
from .task_preparation import prepare_tasks

if TYPE_CHECKING:
    from ..devices.estimate import Estimate
    from ..text.loader import TokenLoader


def plan(job: Job, *, fake_devices: bool) -> None:
    """Compiles a step of the distillation for its widest batch and prints its costs.

    A job with several tasks has a step for each.

    Args:
        job: The job.
        fake_devices: Whether the devices are simulated on the CPU.

    Raises:
        UsageError: As for a training; or the mesh does not fit the devices.
    """
    import jax

    from ..devices.mesh import devices_of

    config = job.config.training
    given = config.teacher_device or ()
    of_teacher = 1 if isinstance(given, str) else len(given)
    needed = math.prod(n for n in config.mesh.values() if n > 0) + of_teacher
    found = len(devices_of(dataclasses.replace(config, device="cpu") if fake_devices else config))
    if needed > found:
        what = "The student's mesh and the teacher need" if of_teacher else "The mesh needs"
        raise UsageError(
            f"{what} {needed} devices, and {found} are here: add --devices {needed} to "
            f"compile for {needed} fake CPU devices."
        )
    if fake_devices:  # the last ones are the teacher's
        names = [f"cpu:{found - 1 - n}" for n in range(of_teacher)] or None
        config = dataclasses.replace(config, device="cpu", teacher_device=names)
        job = job._replace(config=dataclasses.replace(job.config, training=config))
    kind = "fake CPU devices" if fake_devices else jax.devices()[0].device_kind
    prepared = None if job.config.tasks else prepare_distillation(job, needs_teacher=False)
    for name, (estimate, width) in _estimates(job, prepared).items():
        _print_estimate(job, name, estimate, width, kind)
    print_line(
        "Activations are the temporary memory of the compiled step, including gradients; other"
    )
    print_line("devices and compilers need other amounts. Nothing was run.")
    if prepared is not None:
        print_untrained(job, prepared)


def _estimates(
    job: Job, prepared: PreparedDistillation | None
) -> "dict[str, tuple[Estimate, int]]":
    """The estimate of a step, and the width of its batches, by task; one without a name."""
    if prepared is not None:
        training = prepared.training
        loader = _widest(prepared.task, prepared.texts.encoded, training.optimization)
        report_wait("compiling the step")
        return {"": (dataclasses.replace(training, loader=loader).estimate(), loader.widths[-1])}
    tasks = prepare_tasks(job)
    loaders = {
        name: _widest(own.task, own.data.texts.encoded, tasks.training.optimization)
        for name, own in tasks.tasks.items()
    }
    of_all, estimates = dataclasses.replace(tasks.training, loaders=loaders), {}
    for name, loader in loaders.items():
        report_wait(f"compiling the step of {name}")
        estimates[name] = of_all.estimate(name), loader.widths[-1]
    return estimates


def _widest(task: Task[Any], encoded: Encoded, optimization: OptimizationConfig) -> "TokenLoader":
    """A loader whose batches all have the largest width."""
    return task.make_loader(encoded, optimization.batch_size, num_widths=1)


def _print_estimate(job: Job, task: str, estimate: "Estimate", width: int, kind: str) -> None:
    mesh = " x ".join(f"{axis} {n}" for axis, n in estimate.mesh.items()) or "none"
    groups = job.config.training.gradient_accumulation_steps
    batch = f"{job.config.student.optimization.batch_size} texts of {width} tokens"
    print_table(
        [
            *([("task", task)] if task else []),
            ("devices", f"{estimate.devices}, {kind}"),
            ("mesh", mesh),
            ("step", batch if groups == 1 else f"{groups} batches of {batch}"),
        ]
    )
    print_line("")
    print_table(
        [
            ("teacher", format_bytes(estimate.teacher)),
            ("student", format_bytes(estimate.student)),
            ("optimizer", format_bytes(estimate.optimizer)),
            ("batch", format_bytes(estimate.batch)),
            ("activations", format_bytes(estimate.activations)),
            ("total", format_bytes(estimate.total)),
            ("FLOPs per step", f"{estimate.flops:.3g}"),
        ],
        ["on each device", ""],
        numbers=(1,),
    )
    if job.config.training.teacher_device is not None:
        print_line("")
        print_line("The teacher is on devices of its own, which are not counted.")
    communication = ", ".join(f"{n} {name}" for name, n in estimate.collectives.items())
    print_line("")
    print_line(f"Communication: {communication or 'none'}.")
