"""What a teacher cache costs, what it loses, and how fast training from it is.

``logits`` keeps the logits that SmolLM2-135M gives for WordNet glosses, over its 49,152 tokens and
over the 32,000 likeliest of them, in several ways, and prints bytes per token and errors. The loss
(KL at temperature 1, in nats) is that of a student whose probabilities are half the teacher's and
half their mean over all places; the gap is what the kept tokens and the rest as one lack of it.

``epochs`` trains a BERT of 2 layers x 128 on glosses: on labels alone (the floor), with a live
teacher of 6 layers x 384, from the cache in memory and from caches on disk. All take turns within
one process; what is printed are medians of the ratios to the floor in the same turn.

    python benchmarks/teacher_cache.py logits
    python benchmarks/teacher_cache.py epochs
"""

import argparse
import os
import statistics
import tempfile
import time
import zlib
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.cache import Storage, TeacherCache, build_cache, cache_by_example, with_outputs
from jaxbrewer.cache.measure import Sums, add_errors
from jaxbrewer.cache.record_layout import layout_of
from jaxbrewer.cache.records import decode, encode
from jaxbrewer.configs import OptimizationConfig
from jaxbrewer.demo.wordnet import load_glosses
from jaxbrewer.models import BertConfig, BertForSequenceClassification
from jaxbrewer.objective.top_k import keep_top_k, to_buckets
from jaxbrewer.step.teachers import make_teacher_step, only_needed
from jaxbrewer.text import Encoded, TextLoader
from jaxbrewer.text.tasks.classification import adaptor
from jaxbrewer.text.training import make_adamw

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


def glosses(count, seed=0):
    """Real lengths and classes; the words themselves do not matter for the time."""
    found, rng = load_glosses(), np.random.default_rng(seed)
    rows = rng.permutation(len(found))[:count]
    lengths = np.array([min(len(found.texts[row].split()) * 5 // 4 + 2, 48) for row in rows])
    tokens = rng.integers(5, 8192, lengths.sum()).astype(np.int32)
    encoded = Encoded(tokens, 0 * tokens, np.concatenate([[0], np.cumsum(lengths)]))
    return encoded, found.labels[rows]


def bert(layers, width, seed):
    config = BertConfig(
        vocab_size=8192, hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width,
        num_attention_heads=width // 32, max_position_embeddings=64, num_labels=25,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return jb.as_model(BertForSequenceClassification(config, rngs=nnx.Rngs(seed)))


def measure_epochs(texts, batch_size, rounds):
    encoded, labels = glosses(texts)
    teacher, student = bert(6, 384, 1), bert(2, 128, 0)

    def loader():
        return TextLoader(encoded, batch_size, labels=labels, drop_last=True)

    with tempfile.TemporaryDirectory() as folder:
        caches = {}
        for storage in (Storage(), Storage("top_k", k=8)):
            path = Path(folder) / storage.kind
            start = time.perf_counter()
            manifest = build_cache(path, teacher, adaptor, _plain(encoded), storage=storage)
            seconds = time.perf_counter() - start
            caches[storage.kind] = TeacherCache(path)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            print(
                f"built {storage.kind}: {texts / seconds:,.0f} examples/s, of which it packs and "
                f"writes {_packing_rate(caches[storage.kind], encoded):,.0f}/s; "
                f"{manifest.report['bytes_per_example']:.0f} bytes per example, on disk "
                f"{size / texts:.0f}"
            )
        run, config = make_teacher_step(teacher, adaptor), jb.DistillationConfig()
        teach = jax.jit(lambda variables, batch: only_needed(run(variables, batch), config))
        in_memory = cache_by_example(loader(), lambda batch: teach(teacher.variables, _own(batch)))
        variants = {
            "labels alone": (None, jb.DistillationConfig(hard_label_weight=1), _as_it_is),
            "live teacher": (teacher, jb.DistillationConfig(), _as_it_is),
            "memory cache": (None, jb.DistillationConfig(), in_memory),
            "disk cache, full": (
                None, jb.DistillationConfig(), lambda batch: with_outputs(batch, caches["full"]),
            ),
            "disk cache, top 8": (
                None, jb.DistillationConfig(), lambda batch: with_outputs(batch, caches["top_k"]),
            ),
        }  # fmt: skip
        runs = {name: _run(student, loader(), *variant) for name, variant in variants.items()}
        for run in runs.values():  # compiles
            next(run)
        times = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(next(run))
    print(f"\n{texts} texts, batches of {batch_size}, {rounds} epochs each in turn")
    print(f"{'':20}{'ms/epoch':>10}{'x floor':>10}{'CPU ms':>10}{'x floor':>10}")
    floor = times["labels alone"]
    for name, measured in times.items():
        cells = []
        for clock in (0, 1):
            ratios = [one[clock] / other[clock] for one, other in zip(measured, floor, strict=True)]
            cells.append(f"{1e3 * statistics.median(one[clock] for one in measured):10.0f}")
            cells.append(f"{statistics.median(ratios):10.3f}")
        print(f"{name:20}{''.join(cells)}")


def _plain(encoded):
    return TextLoader(encoded, 64, shuffle=False)


def _own(batch):
    return {name: x for name, x in batch.items() if name not in ("example_id", "teacher_cache")}


def _as_it_is(batch):
    return batch


def _packing_rate(cache, encoded):
    """Examples packed per second, without the teacher."""
    batch = next(iter(TextLoader(encoded, 512)))
    outputs, examples = cache.outputs(batch), len(batch["example_id"])
    start = time.process_time()
    encode(outputs, cache.record_layout, np.zeros(examples, np.uint64))
    return examples / (time.process_time() - start)


def _run(student, loader, teacher, config, attach):
    """Yields wall and CPU seconds of one epoch after another."""
    objective = jb.make_objective(config, total_steps=10_000)
    optimizer = jb.make_optimizer(
        make_adamw(OptimizationConfig(), 10_000), objective, max_grad_norm=1.0
    )
    step = jax.jit(
        jb.make_train_step(
            student, teacher, objective, optimizer, adaptor_S=adaptor, adaptor_T=adaptor
        ),
        donate_argnums=0,
    )
    state = jb.init_train_state(student, objective, optimizer)
    variables = teacher and teacher.variables
    while True:
        start = time.perf_counter(), time.process_time()
        for batch in loader:
            state, metrics = step(state, variables, attach(batch))
        jax.block_until_ready(metrics)
        yield time.perf_counter() - start[0], time.process_time() - start[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("logits", "epochs"))
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if options.what == "logits":
        measure_logits(options.sequences, options.length)
    else:
        measure_epochs(options.texts, options.batch_size, options.rounds)


if __name__ == "__main__":
    main()
