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
# # A first distillation
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxbrewer/jaxbrewer/blob/main/examples/notebooks/quickstart.ipynb)
#
# A wide network learns handwritten digits from many labels. A narrow network with a tenth of the
# weights has 50 labels. It learns once from them alone, and once from the wide network as well,
# which also labels the other images. The last cell shows how much that helped.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxbrewer") is None:  # in Colab
    source = "jaxbrewer[demo] @ git+https://github.com/jaxbrewer/jaxbrewer"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxbrewer as jb

# %% [markdown]
# ## The data
#
# 1,797 images of 8 x 8 pixels: 500 to test on, the others to train on. `has_label` says which
# labels the student may see. Any iterable of batches is a loader; `ArrayLoader` cuts arrays.

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
test_images, test_labels = images[:500], labels[:500]
images, labels = images[500:], labels[500:]
few = np.arange(len(labels)) < 50


def loader(rows, has_label):
    data = {"x": images[rows], "labels": labels[rows], "has_label": has_label[rows]}
    return jb.ArrayLoader(data, batch_size=100)


# %% [markdown]
# ## Models and adaptor
#
# A model is a Flax NNX module here. The adaptor is a function of the batch and the model's
# outputs. It names what the losses compare: the logits, a hidden layer, and a loss on the labels,
# one number for each example.


# %%
class Net(nnx.Module):
    def __init__(self, width, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        hidden = nnx.relu(self.hidden(x))
        return {"logits": self.head(hidden), "hidden": hidden}


def adaptor(batch, outputs):
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], batch["labels"])
    return {
        "logits": outputs["logits"],
        "hidden": outputs["hidden"],
        "losses": jnp.where(batch["has_label"], loss, 0),
    }


def accuracy(model):
    return float((model(test_images)["logits"].argmax(-1) == test_labels).mean())


# %% [markdown]
# ## The teacher, and a student on labels alone
#
# `BasicTrainer` trains on the adaptor's `losses`. Both students take the same number of steps.

# %%
training = jb.TrainingConfig(output_dir=None, progress=False)  # write nothing, print nothing
steps = 500


def optimizer():
    return optax.adam(optax.cosine_decay_schedule(3e-3, steps))


everything = loader(slice(None), np.ones(len(labels), bool))
trainer = jb.BasicTrainer(training, Net(256, seed=0), adaptor)
teacher, _ = trainer.train(optimizer(), everything, num_steps=steps)

trainer = jb.BasicTrainer(training, Net(32, seed=1), adaptor)
alone, _ = trainer.train(optimizer(), loader(few, few), num_steps=steps)

# %% [markdown]
# ## The distilled student
#
# The loss has three parts: the logits of the teacher at temperature 4, the 50 labels, and the
# direction of the hidden layer. The widths 32 and 256 differ, so a linear projection is trained
# with the student.

# %%
match = {"feature": "hidden", "layer_T": 0, "layer_S": 0, "loss": "cos", "weight": 1}
config = jb.DistillationConfig(
    temperature=4,
    kd_loss_weight=16,
    hard_label_weight=1,
    intermediate_matches=[match | {"proj": ["linear", 32, 256]}],
)
distiller = jb.GeneralDistiller(training, config, teacher, Net(32, seed=1), adaptor, adaptor)
distilled, history = distiller.train(optimizer(), loader(slice(None), few), num_steps=steps)
for name in ("unweighted_kd_loss", "unweighted_hidden_cos_0_0"):
    print(f"{name}: {history[name][0]:.3f} -> {history[name][-1]:.3f}")

# %% [markdown]
# ## Was it worth it?

# %%
scores = {"teacher": teacher, "student, 50 labels alone": alone, "student, distilled": distilled}
scores = {name: accuracy(model) for name, model in scores.items()}
for name, score in scores.items():
    print(f"{name:25} {score:.1%}")
gap = scores["teacher"] - scores["student, 50 labels alone"]
closed = (scores["student, distilled"] - scores["student, 50 labels alone"]) / gap
print(f"gap closed                {closed:.0%}")
assert closed > 0.3

# %% [markdown]
# One seed is an anecdote. `jaxbrewer study` repeats such a comparison over seeds, at equal steps
# and at equal compute, and reports intervals.
