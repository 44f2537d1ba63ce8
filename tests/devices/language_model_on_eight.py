"""Distils a decoder on 8 fake CPU devices under several layouts and prints gaps as JSON.

Run by ``test_language_model.py`` in a process of its own, since the number of devices is fixed once
JAX has started.
"""

import json
import sys

import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.configs import DataConfig
from jaxbrewer.models import LlamaConfig, LlamaForCausalLM
from jaxbrewer.text import task_of
from tests.devices.eight_devices import gap
from tests.text.toy_language import random_documents
from tests.toys import quiet

TASK = task_of(DataConfig(task="language-modeling", max_length=16))
SPLIT = [
    ["(q|k|v|gate|up)_proj/kernel", [None, "tensor"]],
    ["(o|down)_proj/kernel", ["tensor"]],
    ["embed_tokens", ["tensor"]],
]
LAYOUTS = {
    "one": {},
    "fsdp": {"mesh": {"fsdp": 8}},
    "tensor": {
        "mesh": {"data": 2, "tensor": 4},
        "student_rules": SPLIT,
        "teacher_rules": SPLIT,
    },
}


def decoder(layers, seed):
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=64, max_position_embeddings=16,
        tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config, rngs=nnx.Rngs(seed))


def trajectory(layout):
    """Losses and weights after three steps on packed rows."""
    config = jb.DistillationConfig(kd_loss_type="kl", temperature=1, hard_label_weight=1)
    distiller = jb.GeneralDistiller(
        quiet(**layout), config, decoder(2, 1), decoder(1, 0), TASK.adaptor, TASK.adaptor
    )
    documents = random_documents([16, 9, 7, 12, 4] * 12, vocab=64, prompts=True)
    loader = TASK.make_loader(documents, 8)
    result = distiller.train(optax.sgd(0.1, momentum=0.9), loader, num_steps=3)
    return result.history["total_loss"], nnx.to_pure_dict(nnx.state(result.student, nnx.Param))


if __name__ == "__main__":
    expected = trajectory(LAYOUTS["one"])
    gaps = {name: gap(trajectory(LAYOUTS[name]), expected) for name in ("fsdp", "tensor")}
    json.dump({"gaps": gaps, "losses": list(map(float, expected[0]))}, sys.stdout)
