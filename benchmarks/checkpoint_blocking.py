"""How long a save blocks the training, compared with the same save by Orbax alone.

PYTHONPATH=. python benchmarks/checkpoint_blocking.py --megabytes 35 350

Prints medians in milliseconds: one step; the time for which our store blocks the loop; Orbax's
asynchronous and synchronous saves; and the ratio of the first two. Measurements alternate.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from orbax.checkpoint import v1 as ocp

import jaxbrewer as jb
from jaxbrewer.run.checkpoint_record import parts_of
from jaxbrewer.run.checkpoint_store import CheckpointStore


def make(megabytes):
    """A state of this size (weights and two moments), and a step over it."""
    width = int((megabytes * 1e6 / 4 / 3 / 8) ** 0.5)
    weights = {str(index): jnp.zeros((width, width)) for index in range(8)}
    student = jb.as_model((lambda params, x: x, weights))
    optimizer = optax.adam(1e-3)
    state = jb.init_train_state(student, jb.make_objective(jb.DistillationConfig()), optimizer)

    def loss(params, x):
        for weight in params["student"].values():
            x = jnp.tanh(x @ weight)
        return jnp.mean(x**2)

    @jax.jit
    def step(state, x):
        gradient = jax.grad(loss)(state.trainable, x)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        return state.__class__(**{**vars(state), "trainable": trainable, "opt_state": opt_state})

    return state, step, jnp.ones((256, width))


def timed(taken, task):
    """Runs ``task`` and adds its milliseconds to ``taken``."""
    began = time.perf_counter()
    result = task()
    taken.append(1e3 * (time.perf_counter() - began))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[35, 350])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    for megabytes in arguments.megabytes:
        state, step, x = make(megabytes)
        times = {name: [] for name in ("step", "ours", "orbax async", "orbax sync")}

        with tempfile.TemporaryDirectory() as place:
            store = CheckpointStore(Path(place))
            for number in range(arguments.repeats + 1):
                state = jax.block_until_ready(step(state, x))
                state = timed(times["step"], lambda: jax.block_until_ready(step(state, x)))  # noqa: B023
                position = {"epoch": 0, "batch": number}
                timed(times["ours"], lambda: store.save(number, state, position))  # noqa: B023
                store.wait()
                parts = parts_of(state)
                path = Path(place) / f"async{number}"
                saving = timed(
                    times["orbax async"],
                    lambda: ocp.save_checkpointables_async(path, parts),  # noqa: B023
                )
                saving.result()
                path = Path(place) / f"sync{number}"
                timed(times["orbax sync"], lambda: ocp.save_checkpointables(path, parts))  # noqa: B023
            store.close()
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in medians.items())
        print(f"{megabytes} MB: {shown}; ours/step {medians['ours'] / medians['step']:.3f}")


if __name__ == "__main__":
    main()
