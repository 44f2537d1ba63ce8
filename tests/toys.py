"""Models of a few hundred parameters, and data for them."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb

CLASSES, LENGTH, VOCABULARY = 5, 7, 50


def text_data(examples=40, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, LENGTH + 1, examples)
    return {
        "input_ids": rng.integers(0, VOCABULARY, (examples, LENGTH)).astype(np.int32),
        "attention_mask": (np.arange(LENGTH) < lengths[:, None]).astype(np.int32),
        "labels": rng.integers(0, CLASSES, examples).astype(np.int32),
    }


def array(values):
    return jnp.asarray(np.asarray(values, np.float32))


def drawn(seed):
    """Initializers for NNX that draw with NumPy: JAX compiles a program for each shape."""
    rng = np.random.default_rng(seed)
    return {
        "kernel_init": lambda key, shape, dtype: array(rng.normal(0, shape[0] ** -0.5, shape)),
        "bias_init": lambda key, shape, dtype: array(np.zeros(shape)),
    }


class Encoder(nnx.Module):
    """Embeddings, tanh layers, a mean over the tokens, a head; hidden states are returned."""

    def __init__(self, width, layers, *, dropout=0.0, norm=False, seed=0):
        rngs, init = nnx.Rngs(seed), drawn(seed)
        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs, **init) for _ in range(layers)])
        self.norm = nnx.BatchNorm(width, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs, **init)

    def __call__(self, input_ids, attention_mask):
        hidden = [self.embed(input_ids)]
        for layer in self.layers:
            hidden.append(jnp.tanh(layer(hidden[-1])))
        mask = attention_mask[..., None]
        pooled = (hidden[-1] * mask).sum(1) / mask.sum(1)
        if self.norm is not None:
            pooled = self.norm(pooled)
        return {"logits": self.head(self.dropout(pooled)), "hidden": hidden}


class LinenMLP(nn.Module):
    width: int
    dropout: float = 0.0
    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        hidden = jnp.tanh(nn.Dense(self.width, name="first")(x))
        if self.norm:
            hidden = nn.BatchNorm(use_running_average=not train, name="norm")(hidden)
        hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        return nn.Dense(CLASSES, name="second")(hidden)


class NnxMLP(nnx.Module):
    def __init__(self, width, features, *, dropout=0.0, norm=False, seed=0):
        rngs, init = nnx.Rngs(seed), drawn(seed)
        self.first = nnx.Linear(features, width, rngs=rngs, **init)
        self.norm = nnx.BatchNorm(width, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.second = nnx.Linear(width, CLASSES, rngs=rngs, **init)

    def __call__(self, x):
        hidden = jnp.tanh(self.first(x))
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.second(self.dropout(hidden))


def dense(layer, x):
    product = x @ layer["kernel"]
    return product + jnp.broadcast_to(layer["bias"], product.shape)


def mlp(params, x):
    return dense(params["second"], jnp.tanh(dense(params["first"], x)))


def mlp_params(width, features=4, seed=0):
    rng = np.random.default_rng(seed)

    def layer(*shape):
        return {"kernel": array(rng.normal(0, 0.5, shape)), "bias": array(np.zeros(shape[1]))}

    return {"first": layer(features, width), "second": layer(width, CLASSES)}


def vector_data(examples=24, features=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, features)).astype(np.float32)
    return {"x": x, "labels": rng.integers(0, CLASSES, examples).astype(np.int32)}


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def logits_adaptor(batch, outputs):
    """For the models over ``x``, which return logits alone."""
    return {
        "logits": outputs,
        "labels": batch["labels"],
        "losses": cross_entropy(outputs, batch["labels"]),
    }


def hidden_adaptor(batch, outputs):
    """For :class:`Encoder`."""
    return {
        "logits": outputs["logits"],
        "hidden": outputs["hidden"],
        "inputs_mask": batch["attention_mask"],
        "labels": batch["labels"],
        "losses": cross_entropy(outputs["logits"], batch["labels"]),
    }


def quiet(**settings):
    """A training config that writes nothing and shows nothing."""
    return jb.TrainingConfig(**{"output_dir": None, "progress": False, **settings})


HIDDEN_MATCH = {
    "layer_T": -1,
    "layer_S": -1,
    "feature": "hidden",
    "loss": "hidden_mse",
    "weight": 1,
    "proj": ["linear", 6, 8],
}
