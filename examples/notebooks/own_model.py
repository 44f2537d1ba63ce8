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
# # Your own Flax model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxbrewer/jaxbrewer/blob/main/examples/notebooks/own_model.ipynb)
#
# A model is an NNX module, a Linen module with its variables, or a function of parameters, which is
# how models of other libraries take part. One teacher here teaches a student of each kind.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxbrewer") is None:  # in Colab
    source = "jaxbrewer[demo] @ git+https://github.com/jaxbrewer/jaxbrewer"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

import jaxbrewer as jb

x = np.random.default_rng(0).normal(size=(768, 8)).astype("float32")
labels = (x[:, :3] ** 2).argmax(1)
train, test = slice(0, 512), slice(512, None)
loader = jb.ArrayLoader({"x": x[train], "labels": labels[train]}, batch_size=64)
training = jb.TrainingConfig(output_dir=None, progress=False)


def adaptor(batch, logits):
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return {"logits": logits, "losses": loss}


# %% [markdown]
# ## NNX
#
# The module itself is passed. jaxbrewer sets its mode: dropout is on in the student and off in the
# teacher. After training the module holds the new weights.


# %%
class Net(nnx.Module):
    def __init__(self, width, seed=0):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(8, width, rngs=rngs)
        self.drop = nnx.Dropout(0.05, rngs=rngs)
        self.head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.hidden(x))))


trainer = jb.BasicTrainer(training, Net(128), adaptor)
teacher, _ = trainer.train(optax.adam(1e-2), loader, num_epochs=40)


# %% [markdown]
# ## Linen
#
# A pair of the module and its variables. The argument `train` is set by jaxbrewer, and batch
# statistics are kept.


# %%
class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(24)(x))
        return nn.Dense(3)(nn.relu(x))


linen = LinenNet()
variables = linen.init(jax.random.key(1), x[:1])

# %% [markdown]
# ## Anything else
#
# `from_function` takes a function of parameters and the entries of the batch that it names. An
# Equinox module becomes one by `eqx.partition`, a Haiku transformation by its `apply`; the page on
# models has both, and Keras, Tunix and Hugging Face.


# %%
def network(params, x):
    hidden = jax.nn.relu(x @ params["w"] + params["b"])
    return hidden @ params["head"]


keys = jax.random.split(jax.random.key(2))
params = {
    "w": jax.random.normal(keys[0], (8, 24)) / 2,
    "b": jnp.zeros(24),
    "head": jax.random.normal(keys[1], (24, 3)) / 5,
}

# %% [markdown]
# ## One teacher, three students

# %%
students = {
    "NNX": Net(24, seed=3),
    "Linen": (linen, variables),
    "function": jb.from_function(network, params),
}
config = jb.DistillationConfig(temperature=2, kd_loss_type="kl", hard_label_weight=0.5)


def accuracy(logits):
    return float(np.mean(np.asarray(logits).argmax(-1) == labels[test]))


teacher.eval()
scores = {"teacher": accuracy(teacher(x[test]))}
for name, student in students.items():
    distiller = jb.BasicDistiller(training, config, teacher, student, adaptor, adaptor)
    trained, _ = distiller.train(optax.adam(1e-2), loader, num_epochs=30)
    if name == "NNX":  # the module itself
        trained.eval()
        logits = trained(x[test])
    elif name == "Linen":  # its variables
        logits = linen.apply(trained, x[test])
    else:  # its parameters
        logits = network(trained, x[test])
    scores[name] = accuracy(logits)
for name, score in scores.items():
    print(f"{name:9} {score:.1%}")
assert min(scores.values()) > 0.7

# %% [markdown]
# A model whose outputs are tuples, dataclasses or dicts needs no wrapper either: the adaptor reads
# them as the model returns them.
