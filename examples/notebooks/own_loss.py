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
# # Your own loss, and how to check it
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxbrewer/jaxbrewer/blob/main/examples/notebooks/own_loss.ipynb)
#
# A loss between logits or between layers is a function. This notebook writes one with a fault, lets
# `check_loss` find it, mends it, and distils with it. No class is needed, and nothing inside
# jaxbrewer changes.

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
import optax

import jaxbrewer as jb
from jaxbrewer.losses import as_loss, masked_mean, valid
from jaxbrewer.testing import check_loss

# %% [markdown]
# ## A first attempt
#
# The Huber distance between hidden states. States have the shape `(batch, length, width)`, the mask
# `(batch, length)`: 0 for padding. This version multiplies by the mask and takes a mean.


# %%
def huber_loss(state_S, state_T, mask=None):
    distance = optax.huber_loss(state_S, state_T).mean(-1)
    return (distance * mask).mean() if mask is not None else distance.mean()


try:
    check_loss(huber_loss, "hidden")
except AssertionError as error:
    print(error)

# %% [markdown]
# `check_loss` names each property that does not hold, with the numbers. A NaN in padding survives a
# multiplication, and padding must not count in the mean.
#
# ## The remedy
#
# - `valid` casts to float32 and overwrites padding before anything is computed.
# - `masked_mean` returns a sum and a count. The objective divides once, so micro-batches are exact.
# - `as_loss` makes a scalar of it for everyone else.


# %%
@as_loss
def huber_loss(state_S, state_T, mask=None, *, delta=1.0):
    """Huber distance of two layers, averaged over width and positions."""
    distance = optax.huber_loss(valid(state_S, mask), valid(state_T, mask), delta=delta)
    return masked_mean(distance.mean(-1), mask)


print(check_loss(huber_loss, "hidden"))

# %% [markdown]
# ## Use it by name
#
# A registered loss has a name in configs and job files, and its parameters are set there.

# %%
jb.register_new("match_loss", "huber", huber_loss)
match = {"feature": "hidden", "layer_T": 0, "layer_S": 0, "weight": 1}
config = jb.DistillationConfig(
    kd_loss_weight=0,
    intermediate_matches=[match | {"loss": {"loss": "huber", "delta": 0.5}}],
)


def model(params, x):
    return jnp.tanh(x @ params["w"])


def adaptor(batch, hidden):
    return {"hidden": hidden}


x = jax.random.normal(jax.random.key(0), (64, 10, 8))
teacher = (model, {"w": jax.random.normal(jax.random.key(1), (8, 6))})
student = (model, {"w": jnp.zeros((8, 6))})
training = jb.TrainingConfig(output_dir=None, progress=False)
distiller = jb.GeneralDistiller(training, config, teacher, student, adaptor, adaptor)
_, history = distiller.train(optax.adam(0.05), [{"x": x}], num_steps=80)
first, last = history["total_loss"][0], history["total_loss"][-1]
print(f"loss {first:.4f} -> {last:.4f}")
assert last < first / 10
