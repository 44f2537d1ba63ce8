"""Trains with the teacher on a second fake CPU device; prints seconds as JSON for ``less.py``.

XLA shares one pool of threads among the devices of a CPU and splits large products over it. These
models repeat small products, which XLA computes in one thread each, so that a device has a core.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.run.freed_memory import keep_freed_memory

WIDTH, ROWS = 64, 64


def main() -> None:
    """Takes turns: both on two devices, both without exchange, each alone, both on one device."""
    rounds, steps, products = map(int, sys.argv[1:])
    # A derivative multiplies twice for each product of the forward pass.
    teacher, student = _model(4 * products, seed=0), _model(products, seed=1)
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    outputs = np.asarray(teacher[0](teacher[1], x))
    own = jax.devices()[1]
    weights, forward = jax.device_put(teacher[1], own), jax.jit(teacher[0])

    def teacher_alone() -> None:
        jax.block_until_ready([forward(weights, jax.device_put(x, own)) for _ in range(steps)])

    student_alone = _training(None, student, [{"x": x, "teacher_cache": outputs}], steps)

    def without_exchange() -> None:
        beside = threading.Thread(target=teacher_alone)
        beside.start()
        student_alone()
        beside.join()

    runs = {
        "teacher": teacher_alone,
        "student": student_alone,
        "two devices": _training(teacher, student, [{"x": x}], steps, teacher_device="cpu:1"),
        "without exchange": without_exchange,
        "one device": _training(teacher, student, [{"x": x}], steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first one compiles
                seconds[name].append((time.perf_counter() - start) / steps)
    print(json.dumps(seconds))


def _model(products: int, seed: int) -> tuple[Callable[..., Any], Any]:
    """A function of parameters with this number of products, one after the other."""

    def apply(params: Any, x: Any) -> Any:
        def layer(x: Any, _: None) -> tuple[Any, None]:
            return jnp.tanh(x @ params), None

        return jax.lax.scan(layer, x, None, length=products)[0]

    return apply, jax.random.normal(jax.random.key(seed), (WIDTH, WIDTH)) / WIDTH**0.5


def _training(
    teacher: Any, student: Any, batches: list[Any], steps: int, **settings: Any
) -> Callable[[], Any]:
    """A function that trains for some steps."""

    def adaptor(batch: Any, logits: Any) -> Any:
        return {"logits": logits}

    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, progress=False, device="cpu", **settings),
        jb.DistillationConfig(temperature=4),
        teacher, student, adaptor if teacher else None, adaptor,
    )  # fmt: skip
    optimizer = optax.sgd(1e-4)
    return lambda: distiller.train(optimizer, batches, num_steps=steps)


if __name__ == "__main__":
    keep_freed_memory()
    main()
