"""Keras' side of ``peers.py``: its ``Distiller`` on the JAX backend, with BERTs of Keras layers."""

import json
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers, ops
from keras.distillation import Distiller, FeatureDistillation, LogitsDistillation
from turns import turns

settings = json.loads(sys.argv[1])
size, length = settings["size"], settings["length"]
width, heads = size["hidden_size"], size["num_attention_heads"]


@keras.saving.register_keras_serializable()
class Embeddings(layers.Layer):
    """Words and positions, added up and normalized."""

    def __init__(self, **fields):
        super().__init__(**fields)
        self.words = layers.Embedding(size["vocab_size"], width)
        self.positions = layers.Embedding(size["max_position_embeddings"], width)
        self.norm = layers.LayerNormalization(epsilon=1e-12)

    def call(self, ids):
        return self.norm(self.words(ids) + self.positions(ops.arange(length)[None]))


def bert(count, name):
    ids = keras.Input((length,), dtype="int32")
    x = Embeddings(name=f"{name}_hidden_0")(ids)
    for number in range(1, count + 1):
        gathered = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization(epsilon=1e-12)(x + gathered)
        inner = layers.Dense(size["intermediate_size"], activation="gelu")(x)
        x = x + layers.Dense(width)(inner)
        x = layers.LayerNormalization(epsilon=1e-12, name=f"{name}_hidden_{number}")(x)
    pooled = layers.Dense(width, activation="tanh")(x[:, 0])
    return keras.Model(ids, layers.Dense(size["num_labels"])(pooled), name=name)


teacher, student = (
    bert(count, name)
    for count, name in zip(settings["layers"], ("teacher", "student"), strict=True)
)
distiller = Distiller(
    teacher,
    student,
    distillation_losses=[
        LogitsDistillation(temperature=settings["temperature"]),
        *(
            FeatureDistillation("mse", f"teacher_hidden_{t}", f"student_hidden_{s}")
            for t, s in settings["matches"]
        ),
    ],
)
schedule = keras.optimizers.schedules.PolynomialDecay(settings["rate"], settings["total"], 0.0)
distiller.compile(
    optimizer=keras.optimizers.AdamW(schedule, global_clipnorm=1.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
rng = np.random.default_rng(0)
for count in turns():
    rows = count * settings["batch"]
    ids = rng.integers(0, size["vocab_size"], (rows, length)).astype(np.int32)
    labels = rng.integers(0, size["num_labels"], rows)
    distiller.fit(ids, labels, batch_size=settings["batch"], epochs=1, verbose=0)
