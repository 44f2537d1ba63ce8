"""TextBrewer's first example in jaxbrewer: a BERT of 12 layers teaches one of 3, on random tokens.

The numbers have no meaning. The example has every part of a distillation, in order: models, data,
adaptor, configs, distiller, callback.

Needs the package alone.

    python examples/random_tokens.py
"""

import jax
import numpy as np
import optax
from flax import nnx

from jaxbrewer import ArrayLoader, DistillationConfig, GeneralDistiller, TrainingConfig
from jaxbrewer.models import BertConfig, BertForSequenceClassification

# Models: any NNX module, Linen module with variables, or function.
SIZE = {"vocab_size": 1000, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
teacher_model = BertForSequenceClassification(
    BertConfig(num_hidden_layers=12, **SIZE), rngs=nnx.Rngs(0)
)
student_model = BertForSequenceClassification(
    BertConfig(num_hidden_layers=3, **SIZE), rngs=nnx.Rngs(1)
)
for name, model in {"teacher": teacher_model, "student": student_model}.items():
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{name}: {count:,} parameters")

# Data: any iterable of batches.
rng = np.random.default_rng(0)
data = {
    "input_ids": rng.integers(0, 1000, (128, 16)).astype(np.int32),
    "attention_mask": np.ones((128, 16), np.int32),
    "labels": rng.integers(0, 2, 128).astype(np.int32),
}
dataloader = ArrayLoader(data, batch_size=32)


def simple_adaptor(batch, model_outputs):
    """Names the parts of the model's outputs that the losses compare."""
    logits = model_outputs["logits"]
    return {
        "logits": logits,
        "hidden": model_outputs["hidden_states"],
        "inputs_mask": batch["attention_mask"],
        "losses": optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]),
    }


def callback(model, step):
    """Called after each checkpoint with the student in evaluation mode."""
    logits = model(data["input_ids"][:32], data["attention_mask"][:32])["logits"]
    print(f"step {step}: mean logits {np.asarray(logits.mean(0))}")


distill_config = DistillationConfig(
    temperature=8,
    intermediate_matches=[
        {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
        {"layer_T": 8, "layer_S": 2, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
    ],
)
train_config = TrainingConfig(output_dir="runs/random_tokens", overwrite=True)
distiller = GeneralDistiller(
    train_config=train_config,
    distill_config=distill_config,
    model_T=teacher_model,
    model_S=student_model,
    adaptor_T=simple_adaptor,
    adaptor_S=simple_adaptor,
)
steps = 4 * len(dataloader)
schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps)
with distiller:
    student, history = distiller.train(
        optax.adamw(schedule), dataloader, num_epochs=4, callback=callback
    )
for name in ("total_loss", "unweighted_kd_loss", "unweighted_hidden_hidden_mse_2_8"):
    print(f"{name}: {history[name][0]:.4f} -> {history[name][-1]:.4f}")
