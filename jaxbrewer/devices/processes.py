"""Several processes that train one model: how they start, exchange JSON, and end together."""

import json
import os
import sys
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..errors import UsageError


def initialize_from_environment() -> int:
    """Calls ``jax.distributed.initialize`` with what the environment sets; returns the process id.

    ``JAX_COORDINATOR_ADDRESS`` (``host:port`` of process 0), ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID`` are read; on a TPU slice and under Slurm, MPI and Kubernetes, JAX finds the
    missing ones itself.

    Raises:
        UsageError: A variable is not a number, or JAX finds no other processes.
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


def gather_json(value: Any) -> list[Any]:
    """The value of each process, in all of them. All processes must call it.

    Examples:
        >>> gather_json({"epoch": 1})
        [{'epoch': 1}]
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    gathered = multihost_utils.process_allgather(np.pad(text, (0, longest - len(text))))
    return [json.loads(bytes(row).rstrip(b"\0")) for row in gathered]


def broadcast_json(value: Any) -> Any:
    """The value of process 0, in all of them. All processes must call it.

    Examples:
        >>> broadcast_json({"name": "run"})
        {'name': 'run'}
    """
    return gather_json(value if jax.process_index() == 0 else None)[0]


def exit_all_on_error() -> None:
    """Ends this process at once on an uncaught error, if there are several processes.

    The others wait for it in a collective operation, and JAX's own exit waits for them, so that the
    error would be shown after minutes. The others notice a missing process at once, or after the
    heartbeat timeout of ``jax.distributed``, and end too.
    """
    if jax.process_count() == 1 or getattr(sys.excepthook, "ends_all", False):
        return
    before = sys.excepthook

    def report_and_exit(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        before(kind, error, trace)
        exit_process(1)

    report_and_exit.ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = report_and_exit


def exit_process(status: int) -> None:
    """Ends the process without waiting for others."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
