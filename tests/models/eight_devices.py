"""Loads and runs decoders on 8 fake CPU devices and prints what differs, as JSON.

Run by ``test_meshes.py`` in a process of its own, since the number of devices is fixed once JAX
has started.
"""

import json
import os
import sys

import jax
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.generation import generate
from jaxbrewer.losses import fused_cross_entropy
from jaxbrewer.models import LlamaConfig, LlamaForCausalLM, building, load, save
from tests.toys import quiet

RULES, FOLDER = json.loads(sys.argv[1]), sys.argv[2]
LAYOUTS = {
    "one": (None, ()),
    "fsdp": ({"fsdp": 8}, ()),
    "tensor": ({"data": 2, "tensor": 4}, RULES),
}
IDS = np.random.default_rng(0).integers(0, 256, (8, 12)).astype("int32")


def adaptor(batch, outputs):
    mask = batch["attention_mask"]
    losses = fused_cross_entropy.sum_and_count(outputs["logits"], batch["input_ids"])
    return {"logits": outputs["logits"], "losses": losses, "logits_mask": mask}


def leaves(model):
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def gap(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def losses_of(mesh, rules, *, fused=False):
    """Losses of two steps of distillation from the model to two of its layers."""
    sharded = {} if mesh is None else {"mesh": mesh, "student_rules": rules, "teacher_rules": rules}
    placed = {"mesh": mesh, "rules": rules, "fused_logits": fused}
    teacher, student = load(FOLDER, **placed), load(FOLDER, layers="uniform:2", **placed)
    config = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)
    distiller = jb.GeneralDistiller(quiet(**sharded), config, teacher, student, adaptor, adaptor)
    data = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    result = distiller.train(optax.sgd(0.1), jb.ArrayLoader(data, 8), num_epochs=2)
    return result.history["total_loss"]


if __name__ == "__main__":
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4, intermediate_size=128, tie_word_embeddings=True,
        initializer_range=0.2, eos_token_id=None,
    )  # fmt: skip
    save(LlamaForCausalLM(config, rngs=nnx.Rngs(0)), FOLDER, max_file_bytes=100_000)
    expected = load(FOLDER)
    seen = {"files": len(os.listdir(FOLDER)) - 2}
    parts = []

    def recorded(*arguments, reader=building._reader):
        read = reader(*arguments)

        def recording(index):
            part = read(index)
            parts.append(part.nbytes)
            return part

        return recording

    building._reader = recorded
    forward = jax.jit(lambda model, ids: model(ids)["logits"])
    logits = forward(expected, IDS)
    tokens = generate(expected, IDS[:2], max_new_tokens=6).rows()
    one = losses_of(*LAYOUTS["one"])
    for name in ("fsdp", "tensor"):
        mesh, rules = LAYOUTS[name]
        parts.clear()
        model = load(FOLDER, mesh=mesh, rules=rules)
        largest = max(leaf.nbytes for leaf in leaves(model).values())
        split = [leaf for leaf in leaves(model).values() if not leaf.is_fully_replicated]
        seen[name] = {
            "equal": all(
                np.array_equal(leaf, leaves(expected)[path]) for path, leaf in leaves(model).items()
            ),
            "split": len(split),
            "largest part": max(parts) / largest,
            "logits": gap(forward(model, IDS), logits),
            "tokens": generate(model, IDS[:2], max_new_tokens=6).rows() == tokens,
            "losses": gap(losses_of(mesh, rules), one),
            "fused losses": gap(losses_of(mesh, rules, fused=True), one),
            "int8": gap(
                forward(load(FOLDER, mesh=mesh, rules=rules, quantize="int8"), IDS), logits
            ),
        }
    json.dump(seen, sys.stdout)
