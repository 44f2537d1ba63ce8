"""Distillation in your own loop: your model, your loop, jaxbrewer's step; no distiller.

A wide network learns scikit-learn's handwritten digits. A narrow one with a tenth of the weights
learns from 100 labelled images, once from the labels alone and once from the wide network as well.

Needs scikit-learn: pip install "jaxbrewer[demo]"

    python examples/functional_loop.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxbrewer as jb

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
TEST, MANY, FEW = slice(0, 500), slice(500, None), slice(500, 600)


def init(key, widths):
    """Weights of a network with layers of these widths."""
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {"w": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, "b": jnp.zeros(n)}
        for k, m, n in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def network(params, image):
    """Any function of parameters and the batch's entries is a model."""
    for layer in params[:-1]:
        image = jax.nn.relu(image @ layer["w"] + layer["b"])
    return image @ params[-1]["w"] + params[-1]["b"]


def adaptor(batch, logits):
    """Names what the losses compare: the logits, and a loss on the labels."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"logits": logits, "losses": jnp.where(batch["has_label"], loss, 0)}


def train(student, teacher, config, rows, has_label, steps=600):
    """The loop: a jitted step over a donated state; the teacher's weights are an argument."""
    objective = jb.make_objective(config, total_steps=steps)
    optimizer = jb.make_optimizer(optax.adam(optax.cosine_decay_schedule(3e-3, steps)), objective)
    step = jb.make_train_step(
        student, teacher, objective, optimizer, adaptor_S=adaptor, adaptor_T=adaptor
    )
    step = jax.jit(step, donate_argnums=0)
    state = jb.init_train_state(student, objective, optimizer)
    data = {"image": images[rows], "label": labels[rows], "has_label": has_label[rows]}
    loader = jb.ArrayLoader(data, 100, drop_last=True)
    while state.step < steps:
        for batch in loader:
            state, _ = step(state, teacher and teacher.variables, batch)
    return jb.from_function(network, state.params)


def accuracy(model):
    """Share of the test images that a model classifies correctly."""
    return (network(model.params, images[TEST]).argmax(1) == labels[TEST]).mean()


everything, few = np.ones(len(labels), bool), np.arange(len(labels)) < FEW.stop
wide = jb.from_function(network, init(jax.random.key(0), (64, 256, 256, 10)))
narrow = jb.from_function(network, init(jax.random.key(1), (64, 32, 10)))
on_labels = jb.DistillationConfig(hard_label_weight=1)
on_teacher = jb.DistillationConfig(temperature=4, kd_loss_weight=16)

teacher = train(wide, None, on_labels, MANY, everything)
alone = train(narrow, None, on_labels, FEW, few)
distilled = train(narrow, teacher, on_teacher, MANY, few)
for name, model in {"teacher": teacher, "labels alone": alone, "distilled": distilled}.items():
    print(f"{name:>12}: {accuracy(model):.1%} of {len(labels[TEST])} test images")
