"""Several processes that train one model: how they start, and how they end together."""

import os
import sys
from types import TracebackType

import jax

from ..errors import UsageError


def initialize_from_environment() -> int:
    """``jax.distributed.initialize``, with what the environment says; the number of this process.

    ``JAX_COORDINATOR_ADDRESS`` (``host:port`` of process 0), ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID`` are read; what is missing JAX finds out by itself on a TPU slice and under
    Slurm, MPI and Kubernetes.

    Raises:
        UsageError: A variable is no number, or JAX finds no other processes.
    """
    numbers: dict[str, int | None] = {}
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        value = os.environ.get(name)
        if value is not None and not value.isdecimal():
            raise UsageError(f"The environment variable {name} must be a number, got {value!r}.")
        numbers[name] = None if value is None else int(value)
    try:
        jax.distributed.initialize(
            num_processes=numbers["JAX_NUM_PROCESSES"], process_id=numbers["JAX_PROCESS_ID"]
        )
    except ValueError as error:
        raise UsageError(
            f"The processes cannot find each other: {error} Set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from None
    return jax.process_index()


def exit_all_on_error() -> None:
    """Makes an error that nobody catches end this process at once, if there are several.

    The others wait for it in a collective operation, and JAX's way of ending waits for them: the
    error would be seen after minutes. A process that is gone is noticed by the others at once, or
    after the heartbeat timeout of ``jax.distributed``, and ends them too.
    """
    if jax.process_count() == 1 or getattr(sys.excepthook, "ends_all", False):
        return
    before = sys.excepthook

    def tell_and_end(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        before(kind, error, trace)
        exit_process(1)

    tell_and_end.ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = tell_and_end


def exit_process(status: int) -> None:
    """Ends the process without waiting for others."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
