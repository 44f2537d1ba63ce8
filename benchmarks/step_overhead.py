"""What the library costs: ``GeneralDistiller.train`` against a hand-written step.

Both run the same arithmetic on a pair of the size of MiniLM (teacher 6 layers x 384, student 3
layers x 384; 16 sequences of 64 tokens; soft cross-entropy, four hidden-state losses, labels,
clipping, AdamW with a schedule), a few steps each in turn, in one process. With ``--textbrewer
PYTHON``, an interpreter that has torch, transformers and textbrewer, TextBrewer's own
GeneralDistiller takes its turn in a second process that sleeps otherwise.

    python benchmarks/step_overhead.py --rounds 12 --steps 2
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.models import BertConfig, BertForSequenceClassification

BATCH, LENGTH, CLASSES, TEMPERATURE, RATE, STEPS = 16, 64, 10, 4.0, 1e-4, 10_000
PAIRS = [(0, 0), (2, 1), (4, 2), (6, 3)]
SIZE = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": CLASSES,
}


def bert(layers, seed):
    config = BertConfig(num_hidden_layers=layers, **SIZE)
    return BertForSequenceClassification(config, rngs=nnx.Rngs(seed))


def adaptor(batch, outputs):
    logits = outputs["logits"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return {
        "logits": logits,
        "hidden": outputs["hidden_states"],
        "inputs_mask": batch["attention_mask"],
        "losses": loss.mean(),
    }


class ByHand:
    """The same training without the library: plain nnx, optax and one jitted function."""

    def __init__(self, teacher, student):
        graph_T, weights_T = nnx.split(teacher)
        graph_S, weights_S, rest = nnx.split(student, nnx.Param, ...)
        self.teacher = nnx.to_pure_dict(weights_T)
        self.params = jax.tree.map(jnp.copy, nnx.to_pure_dict(weights_S))
        schedule = optax.linear_schedule(RATE, 0.0, STEPS)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
        self.opt_state = optimizer.init(self.params)

        def loss(params, teacher, batch):
            inputs = batch["input_ids"], batch["attention_mask"]
            target = jax.lax.stop_gradient(nnx.merge(graph_T, teacher)(*inputs))
            output = nnx.merge(graph_S, params, rest)(*inputs)
            soft = jax.nn.softmax(target["logits"] / TEMPERATURE)
            total = optax.softmax_cross_entropy(output["logits"] / TEMPERATURE, soft).mean()
            mask = batch["attention_mask"][..., None]
            count = mask.sum() * SIZE["hidden_size"]
            for layer_T, layer_S in PAIRS:
                gap = output["hidden_states"][layer_S] - target["hidden_states"][layer_T]
                total += jnp.sum(gap**2 * mask) / count
            return (
                total
                + optax.softmax_cross_entropy_with_integer_labels(
                    output["logits"], batch["labels"]
                ).mean()
            )

        def step(params, opt_state, teacher, batch):
            value, gradient = jax.value_and_grad(loss)(params, teacher, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def run(self, batches):
        losses = []
        for batch in batches:
            self.params, self.opt_state, value = self.step(
                self.params, self.opt_state, self.teacher, batch
            )
            losses.append(value)
        return [float(value) for value in losses]


class TextBrewer:
    """TextBrewer's training in a separate process, a few steps at a time."""

    def __init__(self, python):
        settings = {"size": SIZE, "pairs": PAIRS, "temperature": TEMPERATURE, "rate": RATE,
                    "batch": BATCH, "length": LENGTH, "total": STEPS}  # fmt: skip
        # Threads that spin while they wait would slow down the side that is measured.
        quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("textbrewer_worker.py")), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet,
        )  # fmt: skip

    def seconds(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def spread(values):
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--textbrewer", metavar="PYTHON", help="interpreter with TextBrewer")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    batches = [
        {
            "input_ids": rng.integers(0, SIZE["vocab_size"], (BATCH, LENGTH)).astype(np.int32),
            "attention_mask": np.ones((BATCH, LENGTH), np.int32),
            "labels": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        }
        for _ in range(options.steps)
    ]
    teacher, student = bert(6, 0), bert(3, 1)
    by_hand = ByHand(teacher, student)
    peer = TextBrewer(options.textbrewer) if options.textbrewer else None
    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, ckpt_steps=options.steps, progress=False),
        jb.DistillationConfig(
            temperature=TEMPERATURE,
            hard_label_weight=1,
            intermediate_matches=[
                {"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
                for t, s in PAIRS
            ],
        ),
        teacher, student, adaptor, adaptor,
    )  # fmt: skip
    times = {"distiller": [], "by hand": [], "TextBrewer": []}
    hand_losses, end_of_turn = [], time.perf_counter()

    def turn_of_the_others(model, step):
        """Runs between two turns of the distiller, after its steps have finished."""
        nonlocal end_of_turn
        times["distiller"].append(time.perf_counter() - end_of_turn)
        start = time.perf_counter()
        hand_losses.extend(by_hand.run(batches))
        times["by hand"].append(time.perf_counter() - start)
        if peer:
            times["TextBrewer"].append(peer.seconds(options.steps))
        end_of_turn = time.perf_counter()

    history = distiller.train(
        optax.adamw(optax.linear_schedule(RATE, 0.0, STEPS)),
        batches,
        num_steps=options.steps * (options.rounds + 1),
        max_grad_norm=1.0,
        callback=turn_of_the_others,
    ).history
    if peer:
        peer.process.kill()  # otherwise it waits forever: TextBrewer cycles an empty loader
    np.testing.assert_allclose(history["total_loss"], hand_losses, rtol=2e-3)

    measured = {name: np.array(values[1:]) for name, values in times.items() if values}
    for name, values in measured.items():  # the first turn compiles
        print(f"{name:>10}: {spread(values / options.steps)} s a step")
    for name in list(measured)[1:]:
        print(f"distiller / {name}: {spread(measured['distiller'] / measured[name])}")


if __name__ == "__main__":
    sys.exit(main())
