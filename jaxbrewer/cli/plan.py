"""``jaxbrewer plan``: estimates what a job needs of each device, without running it."""

import dataclasses
import math

from ..errors import UsageError
from .config import Job
from .messages import report_wait
from .output import format_bytes, print_line, print_table
from .preparation import prepare_distillation


def plan(job: Job, *, fake_devices: bool) -> None:
    """Compiles a step of the distillation for its widest batch and prints its costs.

    Args:
        job: The job.
        fake_devices: Whether the devices are simulated on the CPU.

    Raises:
        UsageError: As for a training; or the mesh does not fit the devices.
    """
    import jax

    from ..devices.mesh import devices_of

    config = job.config.training
    if fake_devices:
        config = dataclasses.replace(config, device="cpu")
        job = job._replace(config=dataclasses.replace(job.config, training=config))
    needed = math.prod(n for n in config.mesh.values() if n > 0)
    found = len(devices_of(config))
    if needed > found:
        raise UsageError(
            f"The mesh needs {needed} devices, and {found} are here: add --devices {needed} to "
            f"compile for {needed} fake CPU devices."
        )
    prepared = prepare_distillation(job)
    training = prepared.training
    widest = prepared.task.make_loader(
        prepared.texts.encoded, training.optimization.batch_size, num_widths=1
    )
    report_wait("compiling the step")
    estimate = dataclasses.replace(training, loader=widest).estimate()
    mesh = " x ".join(f"{axis} {n}" for axis, n in estimate.mesh.items()) or "none"
    kind = "fake CPU devices" if fake_devices else jax.devices()[0].device_kind
    groups = config.gradient_accumulation_steps
    batch = f"{training.optimization.batch_size} texts of {widest.widths[-1]} tokens"
    print_table(
        [
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
    communication = ", ".join(f"{n} {name}" for name, n in estimate.collectives.items())
    print_line("")
    print_line(f"Communication: {communication or 'none'}.")
    print_line(
        "Activations are the temporary memory of the compiled step, including gradients; other"
    )
    print_line("devices and compilers need other amounts. Nothing was run.")
