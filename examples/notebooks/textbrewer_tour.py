# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour for users of TextBrewer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxbrewer/jaxbrewer/blob/main/examples/notebooks/textbrewer_tour.ipynb)
#
# The names that you know are here: adaptors, `TrainingConfig`, `DistillationConfig`, distillers,
# presets, `multi-teacher`. This notebook shows what stayed and what is new. The page on migration
# lists each setting and each number that differs on purpose.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxbrewer") is None:  # in Colab
    source = "jaxbrewer[demo] @ git+https://github.com/jaxbrewer/jaxbrewer"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import jax
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.models import BertConfig, BertForSequenceClassification

# %% [markdown]
# ## Models and data
#
# Two BERTs with random weights, of two layers and of one. A text is a row of 12 tokens; its class
# says whether a token below 10 occurs among its first six.

# %%
SIZE = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=2, **SIZE), rngs=nnx.Rngs(0))

rng = np.random.default_rng(0)
ids = rng.integers(0, 60, (640, 12)).astype(np.int32)
labels = (ids[:, :6] < 10).any(axis=1).astype(np.int32)


def data(rows):
    mask = np.ones_like(ids[rows])
    return {"input_ids": ids[rows], "attention_mask": mask, "labels": labels[rows]}


loader = jb.ArrayLoader(data(slice(0, 512)), batch_size=64)
test = data(slice(512, None))


def accuracy(model):
    logits = model(test["input_ids"], test["attention_mask"])["logits"]
    return float((logits.argmax(-1) == test["labels"]).mean())


# %% [markdown]
# ## The adaptor
#
# The keys are TextBrewer's. `losses` may have a number for each example: a batch of micro-batches
# then has the exact mean.


# %%
def adaptor(batch, outputs):
    logits = outputs["logits"]
    return {
        "logits": logits,
        "hidden": outputs["hidden_states"],
        "inputs_mask": batch["attention_mask"],
        "losses": optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]),
    }


# %% [markdown]
# ## The teacher
#
# An optimizer is an optax transformation, and its schedule a function of the step: there is no
# `scheduler_class`. `BasicTrainer` needs no teacher.

# %%
training = jb.TrainingConfig(output_dir=None, progress=False)
trainer = jb.BasicTrainer(training, teacher, adaptor)
teacher, _ = trainer.train(optax.adamw(2e-3), loader, num_epochs=15)
print(f"teacher: {accuracy(teacher):.1%}")

# %% [markdown]
# ## Distillation
#
# The config has TextBrewer's fields. `"L3_hidden_mse"` and its other presets exist, and
# `"uniform"` maps layers of any depth. `with distiller:` works and is optional: the teacher always
# runs in evaluation mode and the student in training mode.

# %%
matches = [
    {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
    {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1},
]
config = jb.DistillationConfig(
    temperature=4,
    hard_label_weight=0.5,
    kd_loss_weight_scheduler="linear_decay",
    intermediate_matches=matches,
)
student = BertForSequenceClassification(BertConfig(num_hidden_layers=1, **SIZE), rngs=nnx.Rngs(1))
distiller = jb.GeneralDistiller(training, config, teacher, student, adaptor, adaptor)
student, history = distiller.train(optax.adamw(2e-3), loader, num_epochs=10)
print(f"student: {accuracy(student):.1%}")
for name in ("total_loss", "unweighted_kd_loss", "unweighted_hidden_hidden_mse_1_2"):
    print(f"{name}: {history[name][0]:.4f} -> {history[name][-1]:.4f}")

# %% [markdown]
# ## What is new
#
# - A run is a directory: `TrainingConfig(output_dir="runs/a")` writes checkpoints of the whole
#   state, and `train(..., resume=True)` ends with the same bits as a run that nobody killed.
# - `temperature`, weights and projections are checkpointed, and nothing is written to your config.
# - A wrong setting is one line, before anything is compiled:

# %%
try:
    jb.DistillationConfig(intermediate_matches=[{**matches[0], "loss": "hiden_mse"}])
except jb.UsageError as error:
    print(error)

# %% [markdown]
# - Losses are plain functions. TextBrewer's `kd_ce_loss` does not multiply by the square of the
#   temperature, and neither does `"ce"` here; `"kl"` does.

# %%
logits_S, logits_T = jax.random.normal(jax.random.key(0), (2, 8, 5))
for temperature in (1, 4):
    ce = jb.losses.kd_ce_loss(logits_S, logits_T, temperature)
    kl = jb.losses.kl_loss(logits_S, logits_T, temperature)
    print(f"T = {temperature}: ce {ce:.3f}, kl {kl:.3f}")
