"""The files that a run writes, read back and compared bit by bit."""

import json

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxbrewer.checksums import leaves_by_path
from jaxbrewer.run.logs import read_events


class Crash(Exception):
    """Stands for anything that ends a process."""


class Crashing:
    """A postprocessor that raises :class:`Crash` after ``after`` batches."""

    def __init__(self, after):
        self.remaining = after

    def __call__(self, batch):
        if self.remaining == 0:
            raise Crash
        self.remaining -= 1
        return batch


def left_behind(run, log_dir=None):
    """All that a finished run wrote and that must not depend on interruptions."""
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    return {
        "checkpoints": steps,
        "state": bits(saved(run / "checkpoints" / str(steps[-1]))),
        "metrics": (run / "metrics.jsonl").read_text(),
        "completed": (run / "checkpoints.jsonl").read_text(),
        "config": json.loads((run / "config.json").read_text())["training"]["seed"],
        "events": None if log_dir is None else events(log_dir),
    }


def saved(checkpoint):
    """All arrays of a checkpoint, read by Orbax alone."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        ocp.checkpointables_metadata(checkpoint).metadata,
    )
    return ocp.load_checkpointables(checkpoint, template)


def bits(tree):
    """The bytes of every array."""

    def raw(leaf):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).dtype.str, np.asarray(leaf).tobytes()

    return {name: raw(leaf) for name, leaf in leaves_by_path(tree).items()}


def events(log_dir):
    """``(step, tag, value)`` of every event, file after file."""
    return [
        (event.step, value.tag, value.simple_value)
        for path in sorted(log_dir.iterdir())
        for _, event in read_events(path)
        for value in event.summary.value
    ]


def assert_same(one, other):
    """Equal, with the differing part named."""
    for part, expected in one.items():
        assert other[part] == expected, part
