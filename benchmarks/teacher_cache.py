"""What a teacher cache of logits costs, and what it loses.

Keeps the logits that SmolLM2-135M gives for WordNet glosses, over its 49,152 tokens and
over the 32,000 likeliest of them, in several ways, and prints bytes per token and errors. The loss
(KL at temperature 1, in nats) is that of a student whose probabilities are half the teacher's and
half their mean over all places; the gap is what the kept tokens and the rest as one lack of it.

    python benchmarks/teacher_cache.py
"""

import argparse
import os
import time
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.cache import Storage
from jaxbrewer.cache.measure import Sums, add_errors
from jaxbrewer.cache.record_layout import layout_of
from jaxbrewer.cache.records import decode, encode
from jaxbrewer.demo.wordnet import load_glosses
from jaxbrewer.objective.top_k import keep_top_k, to_buckets

WAYS = [
    Storage("float16"),
    *(Storage("top_k", k=k, bits=bits, temperatures=(1,)) for k, bits in (
        (16, 8), (32, 8), (64, 6), (64, 8), (64, 12), (128, 8), (256, 8),
    )),
    Storage("top_k", k=64, bits=8, temperatures=(1, 2)),
]  # fmt: skip


def measure_logits(count, length):
    import smollm

    config, params, tokenizer = smollm.load(smollm.find_weights())
    texts = np.random.default_rng(0).permutation(load_glosses().texts)
    ids = smollm.sequences(tokenizer, texts, count, length)
    teacher = jax.jit(smollm.make_model(config))
    logits = [np.asarray(teacher(params, row[None])) for row in ids]
    loss = np.mean([
        optax.softmax_cross_entropy_with_integer_labels(z[0, :-1], row[1:]).mean()
        for z, row in zip(logits, ids, strict=True)
    ])  # fmt: skip
    print(f"{count} x {length} tokens of glosses; the teacher's perplexity is {np.exp(loss):.1f}")
    mean = np.mean([np.asarray(jax.nn.softmax(z[0])).mean(0) for z in logits], axis=0)
    likeliest = np.sort(np.argsort(-mean)[:32_000])
    for name, columns in (("all", slice(None)), ("the likeliest", likeliest)):
        chosen = [np.ascontiguousarray(z[..., columns]) for z in logits]
        classes = chosen[0].shape[-1]
        print(f"\n{name} {classes:,} tokens; float32 takes {4 * classes:,} bytes per token")
        header = ("k", "bits", "tau", "bytes", "zlib", "KL", "rest", "loss", "gap", "decode ms")
        print("".join(f"{title:>10}" for title in header))
        for way in WAYS:
            _print_way(way, chosen, mean[columns] / mean[columns].sum())


def _print_way(way, logits, mean):
    sums, squeezed, full, gap, seconds = Sums(), 0, [], [], 0.0
    top_k = way.kind == "top_k"
    keep = jax.jit(lambda z: keep_top_k(z, way.k, way.temperatures)) if top_k else (lambda z: z)
    for teacher in logits:
        student = _student(teacher, mean)
        outputs = jax.device_get(jb.Outputs(logits=(keep(teacher),)))
        layout = layout_of(outputs, half=True, bits=way.bits)
        (record,) = encode(outputs, layout, np.zeros(1, np.uint64))
        start = time.process_time()
        found = decode([record], layout)
        seconds += time.process_time() - start
        add_errors(sums, outputs, found, layout)
        sums.positions += teacher.shape[1]
        sums.record_bytes += len(record)
        squeezed += len(zlib.compress(record, 6))
        full.append(_kl(student, teacher))
        if top_k:
            gap.append(full[-1] - _kl(*to_buckets(student, found.logits[0], 1.0)))
    report = sums.report()
    cells = (
        way.k if top_k else "all", way.bits if top_k else 16, len(way.temperatures),
        f"{report['bytes_per_position']:.1f}", f"{squeezed / sums.positions:.1f}",
        f"{report['kl']:.1e}", f"{report['tail']:.2%}", f"{np.mean(full):.3f}",
        f"{np.mean(gap):.4f}" if gap else "-", f"{1e3 * seconds / len(logits):.1f}",
    )  # fmt: skip
    print("".join(f"{cell:>10}" for cell in cells), flush=True)


@jax.jit
def _student(teacher, mean):
    return jnp.log(0.5 * jax.nn.softmax(teacher) + 0.5 * mean)


@jax.jit
def _kl(student, teacher):
    log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    measure_logits(options.sequences, options.length)


if __name__ == "__main__":
    main()
