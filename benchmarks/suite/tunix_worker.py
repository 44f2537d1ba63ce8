"""Tunix's own Qwen3 models, trained by Tunix or by jaxbrewer; a side of ``peers.py``.

The second argument is who trains: ``tunix``, its DistillationTrainer, or ``jaxbrewer``, and further
ones for jaxbrewer are names of ``variants.VARIANTS``.
"""

import json
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from passes import Passes, wait_for_device
from tunix.distillation import distillation_trainer, strategies
from tunix.models.qwen3.model import ModelConfig, Qwen3
from turns import steps, turns
from variants import VARIANTS

settings, trainer, *arguments = json.loads(sys.argv[1]), *sys.argv[2:]
logging.disable(logging.INFO)
shape, vocabulary = (settings["batch"], settings["length"]), settings["vocabulary"]


def qwen3(layers, seed):
    width, heads = settings["width"], settings["heads"]
    config = ModelConfig(
        num_layers=layers, vocab_size=vocabulary, embed_dim=width, hidden_dim=3 * width,
        num_heads=heads, head_dim=width // heads, num_kv_heads=heads // 2, rope_theta=1_000_000,
        norm_eps=1e-6, use_tied_embedding=True,
    )  # fmt: skip
    return Qwen3(config, rngs=nnx.Rngs(seed))


def forward(model, input_tokens, input_mask):
    positions = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    causal = jnp.tril(jnp.ones((shape[1], shape[1]), bool))
    mask = causal[None] & (input_mask[:, None, :] > 0)
    return model(input_tokens, positions, None, mask)[0]


def ids_and_mask(rng):
    return rng.integers(0, vocabulary, shape).astype(np.int32), np.ones(shape, np.int32)


def with_tunix(teacher, student):
    def labels(input_tokens, input_mask):
        return jax.nn.one_hot(jnp.roll(input_tokens, -1, axis=1), vocabulary)

    strategy = strategies.LogitStrategy(
        forward, forward, labels, temperature=settings["temperature"], alpha=0.5
    )
    config = distillation_trainer.TrainingConfig(
        eval_every_n_steps=10**9, max_steps=settings["total"]
    )
    own = distillation_trainer.DistillationTrainer(
        student, teacher, strategy, optax.adamw(settings["rate"]), config
    )

    def batches():
        rng = np.random.default_rng(0)
        for _ in steps(lambda: jax.block_until_ready(nnx.state(own.model))):
            ids, mask = ids_and_mask(rng)
            yield distillation_trainer.TrainingInput(input_tokens=ids, input_mask=mask)

    own.train(batches())


def with_jaxbrewer(teacher, student):
    import jaxbrewer as jb

    class OfBatch(nnx.Module):
        def __init__(self, model):
            self.model = model

        def __call__(self, ids, mask):
            return forward(self.model, ids, mask)

    def adaptor(batch, logits):
        labels = jnp.roll(batch["ids"], -1, axis=1)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return {"logits": logits, "logits_mask": batch["mask"], "losses": loss.mean()}

    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(
            output_dir=None, progress=False,
            **{field: value for name in arguments for field, value in VARIANTS[name].items()},
        ),
        jb.DistillationConfig(
            temperature=settings["temperature"], kd_loss_type="kl", kd_loss_weight=0.5,
            hard_label_weight=0.5,
        ),
        OfBatch(teacher), OfBatch(student), adaptor, adaptor,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batches = [
        dict(zip(("ids", "mask"), ids_and_mask(rng), strict=True)) for _ in range(settings["steps"])
    ]
    turn = turns(wait_for_device)
    next(turn)
    distiller.train(
        optax.adamw(settings["rate"]), Passes(batches, lambda: next(turn)),
        num_steps=settings["total"],
    )  # fmt: skip


if __name__ == "__main__":
    teacher, student = (qwen3(layers, seed) for seed, layers in enumerate(settings["layers"]))
    train = with_tunix if trainer == "tunix" else with_jaxbrewer
    train(teacher, student)
