"""Two teachers with different inputs, and one small student that learns from both.

The images are scikit-learn's handwritten digits. A convolutional network sees 8 by 8 pixels, a wide
network rows of 64 numbers; each was trained on its own 300 labelled images. The student, a narrow
network, has 60 labels. It learns from these alone, with either teacher, and with both: from the
mean of their logits, as in TextBrewer, and from the mean of their probabilities, where the
convolutional network counts twice.

Needs scikit-learn: pip install "jaxbrewer[demo]"

    python examples/multi_teacher.py [steps]
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxbrewer as jb

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_500
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
pixels, labels = (pixels[order] / 16).astype(np.float32), labels[order].astype(np.int32)
TEST, OF_CONV, OF_WIDE = slice(0, 500), slice(500, 800), slice(800, 1_100)
IMAGES, LABELLED = slice(500, None), 60  # the student's images, and how many of them have labels


class Conv(nn.Module):
    """A Linen module over images, ``[batch, 8, 8, 1]``."""

    @nn.compact
    def __call__(self, image):
        """Logits ``[batch, 10]``."""
        x = nn.relu(nn.Conv(16, (3, 3))(image))
        x = nn.max_pool(nn.relu(nn.Conv(32, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


class Mlp(nnx.Module):
    """An NNX module over rows of pixels, ``[batch, 64]``."""

    def __init__(self, width, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, row):
        """Logits ``[batch, 10]``."""
        return self.head(nnx.relu(self.hidden(row)))


def adaptor(batch, logits):
    """The logits, and the loss on the labels; -1 means no label."""
    has_label = batch["label"] >= 0
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(batch["label"], 0))
    total, count = jnp.sum(jnp.where(has_label, loss, 0)), jnp.sum(has_label, dtype=jnp.float32)
    return {"logits": logits, "losses": jb.Mean(total, count)}


def training():
    return jb.TrainingConfig(output_dir=None, progress=False)


def adam():
    return optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))


def train_teacher(model, name, rows):
    """A teacher trained on its own labelled images."""
    shape = (-1, 8, 8, 1) if name == "image" else (-1, 64)
    data = {name: pixels[rows].reshape(shape), "label": labels[rows]}
    trainer = jb.BasicTrainer(training(), model, adaptor)
    return trainer.train(adam(), jb.ArrayLoader(data, 100), num_steps=STEPS // 2).student


def students_batches():
    """Each model's part of a batch: images, rows, and rows with a few labels."""
    rows = pixels[IMAGES]
    known = np.where(np.arange(len(rows)) < LABELLED, labels[IMAGES], -1).astype(np.int32)
    parts = {"image": rows.reshape(-1, 8, 8, 1), "row": rows, "label": known}
    for batch in jb.ArrayLoader(parts, 200, drop_last=True):
        conv = {"image": batch["image"], "label": batch["label"]}
        mlp = {"row": batch["row"], "label": batch["label"]}
        yield conv, mlp


def accuracy(logits):
    return (np.asarray(logits).argmax(1) == labels[TEST]).mean()


def show(name, logits):
    print(f"{name:>36}: {accuracy(logits):.1%}")


module = Conv()
conv = (module, module.init(jax.random.key(0), jnp.ones((1, 8, 8, 1))))
conv = (module, train_teacher(conv, "image", OF_CONV))
wide = train_teacher(Mlp(256, seed=1), "row", OF_WIDE)
print(f"Accuracy on {len(labels[TEST])} images")
show("teacher, convolutions", module.apply(conv[1], pixels[TEST].reshape(-1, 8, 8, 1)))
show("teacher, wide", wide(pixels[TEST]))

few = {"row": pixels[IMAGES][:LABELLED], "label": labels[IMAGES][:LABELLED]}
alone = jb.BasicTrainer(training(), Mlp(16, seed=2), adaptor)
alone = alone.train(adam(), jb.ArrayLoader(few, LABELLED), num_steps=STEPS).student
show("student, labels alone", alone(pixels[TEST]))

config = jb.DistillationConfig(temperature=4, kd_loss_weight=16, hard_label_weight=1)
for name, teacher, index in (("convolutions", conv, 0), ("wide", wide, 1)):
    distiller = jb.BasicDistiller(training(), config, teacher, Mlp(16, seed=2), adaptor, adaptor)
    batches = [{"teacher": both[index], "student": both[1]} for both in students_batches()]
    student = distiller.train(adam(), batches, num_steps=STEPS).student
    show(f"student of {name}", student(pixels[TEST]))

batches = [{"teacher": both, "student": both[1]} for both in students_batches()]
settings = {
    "mean of logits": {},
    "probabilities, 2 : 1": {"teacher_average": "probabilities", "teacher_weights": [2, 1]},
}
for name, fields in settings.items():
    together = jb.DistillationConfig.from_dict({**config.to_dict(), **fields})
    distiller = jb.MultiTeacherDistiller(
        training(), together, [conv, wide], Mlp(16, seed=2), adaptor, adaptor
    )
    student = distiller.train(adam(), batches, num_steps=STEPS).student
    show(f"student of both, {name}", student(pixels[TEST]))
