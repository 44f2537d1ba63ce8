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
# # Distil on several devices
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxbrewer/jaxbrewer/blob/main/examples/notebooks/mesh.ipynb)
#
# A mesh of devices changes one setting. On a machine without accelerators, XLA makes eight devices
# of the CPU; in Colab choose a TPU or GPU under *Runtime > Change runtime type*, and this notebook
# uses its devices.

# %%
import os

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"  # of the CPU, before JAX starts
)

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

count = jax.device_count()
print(f"{count} devices: {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Models and data


# %%
class Net(nnx.Module):
    def __init__(self, width, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(16, width, rngs=rngs)
        self.middle = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, 8, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.middle(nnx.relu(self.hidden(x)))))


def adaptor(batch, logits):
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return {"logits": logits, "losses": loss}


x = np.random.default_rng(0).normal(size=(512, 16)).astype("float32")
data = {"x": x, "labels": x[:, :8].argmax(1)}
config = jb.DistillationConfig(temperature=2, kd_loss_type="kl", hard_label_weight=0.5)


def distil(**settings):
    training = jb.TrainingConfig(output_dir=None, progress=False, **settings)
    distiller = jb.BasicDistiller(training, config, Net(256, 0), Net(64, 1), adaptor, adaptor)
    return distiller, (optax.adam(3e-3), jb.ArrayLoader(data, batch_size=64))


# %% [markdown]
# ## One device, all devices, weights in parts
#
# - `{"data": n}` splits each batch over the devices; each of them holds all weights.
# - `{"fsdp": n}` also splits weights, gradients and the optimizer's state.
#
# The batch, the masks and the counts are those of the whole batch, so the losses are the same
# within rounding.

# %%
meshes = {
    "one device": {},
    "data parallel": {"mesh": {"data": -1}},
    "fully sharded": {"mesh": {"fsdp": -1}},
}
losses = {}
for name, settings in meshes.items():
    distiller, (optimizer, loader) = distil(**settings)
    _, history = distiller.train(optimizer, loader, num_steps=12)
    losses[name] = history["total_loss"]
    print(f"{name:14} {np.array2string(losses[name][::4], precision=5)}")
for name in meshes:
    np.testing.assert_allclose(losses[name], losses["one device"], rtol=1e-2)

# %% [markdown]
# ## What a step needs
#
# `estimate` compiles a step, runs nothing, and counts what each device holds. The command is
# `jaxbrewer plan JOB`, which also plans for devices that are not there (`--devices 64`).

# %%
for name, settings in meshes.items():
    distiller, (optimizer, loader) = distil(**settings)
    needs = distiller.estimate(optimizer, loader, num_steps=12)
    print(
        f"{name:14} teacher {needs.teacher:8,} bytes, student {needs.student:7,}, "
        f"optimizer {needs.optimizer:7,}"
    )
