"""A teacher that runs once: its outputs are kept on disk, and students train without it.

The texts are WordNet's definitions of nouns, to be sorted into 25 classes. The teacher reads 12,000
of them once; then it is deleted. Students with a twentieth of its weights train on 1,000 labels
alone, on the full cache, and on a cache of the three likeliest classes and the mass of the others.

Needs the package alone.

    python examples/cached_teacher.py [--texts 12000] [--steps 800]
"""

import argparse
import tempfile
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.cache import Storage, build_cache
from jaxbrewer.demo.wordnet import load_glosses

WORDS, LENGTH, CLASSES, LABELLED = 8192, 24, 25, 1_000
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--texts", type=int, default=12_000, help="texts the teacher reads")
parser.add_argument("--steps", type=int, default=800, help="optimizer steps of each training")
options = parser.parse_args()


def read(texts):
    """Word numbers, 0 for padding: ``[texts, LENGTH]``."""
    rows = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in zip(rows, texts, strict=True):
        words = [1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.split()[:LENGTH]]
        row[: len(words)] = words
    return rows


def init(seed, width):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = (WORDS, width), (width, 2 * width), (2 * width, CLASSES)
    return [jax.random.normal(k, s) * s[0] ** -0.5 for k, s in zip(keys, shapes, strict=True)]


def network(params, words):
    """The mean of the words' vectors through one hidden layer."""
    known = (words > 0)[..., None]
    mean = (params[0][words] * known).sum(1) / jnp.maximum(known.sum(1), 1)
    return jax.nn.relu(10 * mean @ params[1]) @ params[2]


def adaptor(batch, logits):
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return {"logits": logits, "losses": loss}


def accuracy(params):
    return (network(params, words[TEST]).argmax(1) == labels[TEST]).mean()


def train(distiller, rows):
    """Trains for the same number of texts each; a cache finds each text by its ``example_id``."""
    data = {"words": words[rows], "labels": labels[rows], "example_id": rows}
    loader = jb.ArrayLoader(data, 100)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, options.steps))
    start = time.perf_counter()
    student, _ = distiller.train(optimizer, loader, num_steps=options.steps)
    print(f"{accuracy(student):6.1%}  {time.perf_counter() - start:5.1f} s  ", end="")
    return student


glosses = load_glosses()
order = np.random.default_rng(0).permutation(len(glosses))[: 4_000 + options.texts]
words, labels = read([glosses.texts[row] for row in order]), glosses.labels[order]
TEST, TRAIN = slice(0, 4_000), np.arange(4_000, len(order))
settings = {"output_dir": None, "progress": False}

with tempfile.TemporaryDirectory() as folder:
    teacher = jb.BasicTrainer(jb.TrainingConfig(**settings), (network, init(0, 192)), adaptor)
    weights = train(teacher, TRAIN)
    print("the teacher")
    loader = jb.ArrayLoader({"words": words[TRAIN], "example_id": TRAIN}, 500, shuffle=False)
    storages = {"full": Storage(), "top 3": Storage("top_k", k=3, temperatures=(2,))}
    for name, storage in storages.items():
        report = build_cache(
            f"{folder}/{name}", (network, weights), lambda batch, logits: {"logits": logits},
            loader, storage=storage,
        ).report  # fmt: skip
        print(f"the cache, {name}: {report['bytes_per_example']:.0f} bytes per text")
    del teacher, weights

    trainer = jb.BasicTrainer(jb.TrainingConfig(**settings), (network, init(1, 12)), adaptor)
    train(trainer, TRAIN[:LABELLED])
    print("a student on labels alone")
    for name in storages:
        config = jb.TrainingConfig(**settings, cache_dir=f"{folder}/{name}")
        distill_config = jb.DistillationConfig(temperature=2, kd_loss_weight=4)
        student = (network, init(1, 12))
        train(jb.GeneralDistiller(config, distill_config, None, student, None, adaptor), TRAIN)
        print(f"a student from the cache, {name}")
