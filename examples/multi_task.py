"""Two tasks, a teacher for each, and one student with a head for each.

The images are scikit-learn's handwritten digits. One task is to name the digit, the other to decide
whether it is drawn with a closed loop (0, 6, 8, 9). Each task has its own teacher, trained on many
labels. The student, a narrow network with two heads, has 80 labels for one task and 40 for the
other. It learns from these alone, and then also from the teachers on unlabelled images.

Needs scikit-learn: pip install "jaxbrewer[demo]"

    python examples/multi_task.py [steps]
"""

import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxbrewer as jb

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000
pixels, digits = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
pixels, digits = (pixels[order] / 16).astype(np.float32), digits[order].astype(np.int32)
labels = {"digit": digits, "loop": np.isin(digits, (0, 6, 8, 9)).astype(np.int32)}
CLASSES = {"digit": 10, "loop": 2}
TEST, REST = slice(0, 500), slice(500, None)
# The images that the student sees of each task, and how many of them have a label.
SEEN, LABELLED = {"digit": 1_200, "loop": 300}, {"digit": 80, "loop": 40}


class Net(nnx.Module):
    """One hidden layer, and a head for each of the named tasks."""

    def __init__(self, width, tasks, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.heads = nnx.Dict({task: nnx.Linear(width, CLASSES[task], rngs=rngs) for task in tasks})

    def __call__(self, row):
        """The logits of every head."""
        hidden = nnx.relu(self.hidden(row))
        return {task: head(hidden) for task, head in self.heads.items()}


def head(task):
    """The adaptor of one head; a label of -1 means no label."""

    def adaptor(batch, outputs):
        logits, has_label = outputs[task], batch["label"] >= 0
        label = jnp.maximum(batch["label"], 0)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        total, count = jnp.sum(jnp.where(has_label, loss, 0)), jnp.sum(has_label, dtype=jnp.float32)
        return {"logits": logits, "losses": jb.Mean(total, count)}

    return adaptor


ADAPTORS = {task: head(task) for task in CLASSES}


def data(task, rows, labelled):
    """The first ``rows`` of the images, the first ``labelled`` of them with labels."""
    known = np.where(np.arange(rows) < labelled, labels[task][REST][:rows], -1)
    return {"row": pixels[REST][:rows], "label": known.astype(np.int32)}


def training():
    return jb.TrainingConfig(output_dir=None, progress=False)


def adamw(steps):
    return optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-3)


def distill(config, rows):
    """A student trained on both tasks, each drawn in proportion to the root of its size."""
    distiller = jb.MultiTaskDistiller(
        training(), config, teachers, Net(16, CLASSES, seed=2), ADAPTORS, ADAPTORS
    )
    loaders = {task: jb.ArrayLoader(data(task, rows[task], LABELLED[task]), 40) for task in CLASSES}
    return distiller.train(adamw(STEPS), loaders, num_steps=STEPS, tau=0.5)


def show(name, outputs):
    scores = (
        f"{task} {(np.asarray(outputs[task]).argmax(1) == labels[task][TEST]).mean():.1%}"
        for task in CLASSES
        if task in outputs
    )
    print(f"{name:>20}: {', '.join(scores)}")


teachers = {}
print(f"Accuracy on {len(digits[TEST])} images")
for task in CLASSES:
    many = jb.ArrayLoader(data(task, 1_200, 1_200), 100)
    trainer = jb.BasicTrainer(training(), Net(256, [task], seed=1), ADAPTORS[task])
    teachers[task] = trainer.train(adamw(STEPS // 4), many, num_steps=STEPS // 4).student
    show(f"teacher of {task}", teachers[task](pixels[TEST]))

on_labels = jb.DistillationConfig(kd_loss_weight=0, hard_label_weight=1)
student = distill(on_labels, LABELLED).student
show("student, labels", student(pixels[TEST]))

configs = {
    "digit": jb.DistillationConfig(temperature=4, kd_loss_weight=16, hard_label_weight=1),
    "loop": jb.DistillationConfig(temperature=2, kd_loss_weight=4, hard_label_weight=1),
}
student, history = distill(configs, SEEN)
show("student, distilled", student(pixels[TEST]))
counts = {task: np.isfinite(history[f"{task}/total_loss"]).sum() for task in CLASSES}
print("steps of each task:", ", ".join(f"{task} {count}" for task, count in counts.items()))
