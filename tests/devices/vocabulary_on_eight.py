"""Losses by chunks on 8 fake CPU devices, the vocabulary over ``tensor``; prints JSON.

Run by ``test_vocabulary.py`` in a process of its own, since the number of devices is fixed once JAX
has started.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxbrewer as jb
from jaxbrewer.losses import Chunks, LogitsOf, fused_cross_entropy, fused_loss
from jaxbrewer.losses import _chunk_sizes as chunks
from jaxbrewer.objective.top_k import keep_top_k
from tests.toys import quiet

BATCH, LENGTH, CLASSES = 4, 16, 256
MESH = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
RNG = np.random.default_rng(0)
COLLECTIVE = re.compile(r"= (.*) (all-gather|all-reduce|all-to-all|collective-permute)(-start)?\(")


def draw(*shape):
    return np.float32(RNG.normal(size=shape))


def put(x, *axes):
    return jax.device_put(x, NamedSharding(MESH, PartitionSpec(*axes)))


STUDENT = LogitsOf(draw(BATCH, LENGTH, 8), draw(8, CLASSES), draw(CLASSES))
TEACHER = LogitsOf(draw(BATCH, LENGTH, 12), draw(CLASSES, 12), tied=True)
LABELS = RNG.integers(0, CLASSES, (BATCH, LENGTH))
KEPT = keep_top_k(TEACHER.logits(), 4, (2.0,))
SPREAD_STUDENT = LogitsOf(
    put(STUDENT.hidden, "data"), put(STUDENT.kernel, None, "tensor"), put(STUDENT.bias, "tensor")
)
SPREAD_TEACHER = LogitsOf(put(TEACHER.hidden, "data"), put(TEACHER.kernel, "tensor"), tied=True)
SPREAD_KEPT = jax.tree.map(lambda x: put(x, "data"), KEPT)
CASES = {
    "kl": (lambda s, t, labels, own: fused_loss(s, t, "kl", 2.0, chunks=own), TEACHER),
    "jsd": (lambda s, t, labels, own: fused_loss(s, t, "jsd", 2.0, chunks=own), TEACHER),
    "top k": (lambda s, t, labels, own: fused_loss(s, t, "kl", 2.0, chunks=own), KEPT),
    "labels": (lambda s, t, labels, own: fused_cross_entropy(s, labels, chunks=own), TEACHER),
}


def compared(name, parts):
    """The gap to one device, and the shapes that devices exchange."""
    loss, teacher = CASES[name]
    own = Chunks(8 // parts, 8, parts)
    program = jax.jit(jax.value_and_grad(lambda s, t, labels: loss(s, t, labels, own)))
    expected = jax.device_get(program(STUDENT, teacher, LABELS))
    spread = SPREAD_STUDENT, SPREAD_KEPT if teacher is KEPT else SPREAD_TEACHER, put(LABELS, "data")
    compiled = program.lower(*spread).compile()
    actual = jax.device_get(compiled(*spread))
    pairs = zip(*map(jax.tree.leaves, (actual, expected)), strict=True)
    found = [
        match for line in compiled.as_text().splitlines() if (match := COLLECTIVE.search(line))
    ]
    shapes = [
        (match[2], [int(n) for n in shape.split(",") if n])
        for match in found
        for shape in re.findall(r"\[([\d,]*)\]", match[1])
    ]
    return {"gap": max(float(np.abs(a - e).max()) for a, e in pairs), "exchanged": shapes}


def trained(**settings):
    """Weights of a student after a training, and the facts of its plan."""

    def model(width, seed):
        rng = np.random.default_rng(seed)
        params = {"table": rng.normal(size=(16, width)), "layer": rng.normal(size=(width, width))}

        def apply(params, ids):
            return {"hidden": jnp.tanh(params["table"][ids] @ params["layer"]), **params}

        return apply, jax.tree.map(np.float32, params)

    def adaptor(batch, outputs):
        logits = LogitsOf(outputs["hidden"], outputs["table"], tied=True)
        return {"logits": logits, "losses": jb.LabelLoss(batch["labels"])}

    rng = np.random.default_rng(0)
    data = {name: rng.integers(0, 16, (8, 6)) for name in ("ids", "labels")}
    distil = jb.DistillationConfig(kd_loss_type="kl", temperature=2, hard_label_weight=0.5)
    one = jb.GeneralDistiller(quiet(**settings), distil, model(5, 1), model(3, 2), adaptor, adaptor)
    batches = list(jb.ArrayLoader(data, 4, shuffle=False))
    facts = one.check(optax.sgd(0.2), batches, num_epochs=2).facts
    weights = one.train(optax.sgd(0.2), batches, num_epochs=2).student
    return jax.tree.map(np.asarray, weights), facts


if __name__ == "__main__":
    seen = {f"{name}, {parts} parts": compared(name, parts) for name in CASES for parts in (1, 2)}
    chunks.CHUNK_BYTES["cpu"] = 4 * 16 * 3
    expected, _ = trained()
    rules = [["table", ["tensor"]]]
    actual, facts = trained(mesh={"data": 2, "tensor": 4}, student_rules=rules, teacher_rules=rules)
    gaps = jax.tree.map(lambda a, e: float(np.abs(a - e).max()), actual, expected)
    json.dump({"losses": seen, "facts": facts, "gap": max(jax.tree.leaves(gaps))}, sys.stdout)
