"""``jaxbrewer plan``: what a job needs of each device, without running it."""

import dataclasses
import math

from ..errors import UsageError
from .config import Job
from .output import say, show, size
from .training import prepare_distillation


def plan(job: Job, *, fake_devices: bool) -> None:
    """Compiles a step of the distillation for its widest batch and prints what it takes.

    Args:
        job: The job.
        fake_devices: Whether the devices only pretend to be as many.

    Raises:
        UsageError: As for a training; or the mesh does not fit the devices.
    """
    import jax

    config = job.config.training
    needed = math.prod(n for n in config.mesh.values() if n > 0)
    found = len(jax.devices("cpu") if config.device == "cpu" else jax.devices())
    if needed > found:
        raise UsageError(
            f"The mesh takes {needed} devices, and {found} are here: add --devices {needed} to "
            "compile for as many fake CPU devices."
        )
    from ..text import TextLoader

    prepared = prepare_distillation(job)
    training = prepared.training
    widest = TextLoader(
        prepared.texts.encoded,
        training.optimization.batch_size,
        labels=prepared.texts.labels,
        num_widths=1,
    )
    estimate = dataclasses.replace(training, loader=widest).estimate()
    mesh = " x ".join(f"{axis} {n}" for axis, n in estimate.mesh.items()) or "none"
    kind = "fake CPU devices" if fake_devices else jax.devices()[0].device_kind
    groups = config.gradient_accumulation_steps
    batch = f"{training.optimization.batch_size} texts of {widest.widths[-1]} tokens"
    show(
        [
            ("devices", f"{estimate.devices}, {kind}"),
            ("mesh", mesh),
            ("update", batch if groups == 1 else f"{groups} batches of {batch}"),
        ]
    )
    say("")
    show(
        [
            ("teacher", size(estimate.teacher)),
            ("student", size(estimate.student)),
            ("optimizer", size(estimate.optimizer)),
            ("batch", size(estimate.batch)),
            ("activations", size(estimate.activations)),
            ("all", size(estimate.total)),
            ("FLOPs of an update", f"{estimate.flops:.3g}"),
        ],
        ["on each device", ""],
        numbers=(1,),
    )
    communication = ", ".join(f"{n} {name}" for name, n in estimate.collectives.items())
    say("")
    say(f"Communication: {communication or 'none'}.")
    say("Activations are the temporary memory of the compiled step, gradients among it; other")
    say("devices and compilers need other amounts. Nothing was run.")
