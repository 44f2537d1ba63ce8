"""A language model and students made of some of its layers, in equal optimizer steps.

The texts are lists of eight of WordNet's definitions of nouns, which the package holds. The student
is every n-th layer of the teacher with its embeddings. It is scored untrained, trained on labels
alone, distilled with three divergences from the live teacher, and distilled from a cache of the
teacher's 64 largest logits and the mass of the others.

`--model` names a Hugging Face directory of a decoder, such as SmolLM2-135M. Without it, a Llama of
six small layers that reads bytes is trained first.

Needs the extra `jaxbrewer[text]`.

    python examples/language_model.py [--model DIR] [--layers 2] [--steps 200] [--seeds 1]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

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
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.training import cache_teacher, make_distillation, make_fine_tuning

LOSSES = ("kl", "reverse_kl", "jsd")
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--model", help="a Hugging Face directory; by default a small model is trained")
parser.add_argument("--layers", type=int, default=2, help="layers of the student")
parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each student")
parser.add_argument("--rows", type=int, default=8, help="packed rows in a batch")
parser.add_argument("--width", type=int, default=128, help="tokens in a row")
parser.add_argument("--test-texts", type=int, default=24, help="texts that score the models")
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--teacher-steps", type=int, default=300, help="steps of the small teacher")
parser.add_argument("--seeds", type=int, default=1, help="orders of the texts to train with")
parser.add_argument("--losses", nargs="+", default=list(LOSSES), help="divergences to distil with")
options = parser.parse_args()

task = task_of(DataConfig(task="language-modeling", max_length=options.width))


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


def documents_of(texts):
    places = [f"gloss {number}" for number in range(len(texts))]
    return task.encode(tokenizer, Corpus("text", texts, places))


def optimization(steps, learning_rate):
    return OptimizationConfig(
        num_steps=steps, batch_size=options.rows, learning_rate=learning_rate, warmup=0.1
    )


def settings_of(seed, **fields):
    return jb.TrainingConfig(seed=seed, progress=False, output_dir=None, **fields)


def student():
    layers = np.linspace(0, teacher.config.num_hidden_layers - 1, options.layers).round()
    return cut_layers(teacher, [int(layer) for layer in layers])


def score(name, seed, model, seconds):
    beside = None if model is teacher else teacher
    found = run_model(task, model, test, teacher=beside, batch_size=8).predictions
    metrics = task.score(test_texts, test, found)
    if beside is not None:
        metrics |= task.agreement(test_texts, test, found, as_teacher).metrics()
    columns = [metrics["perplexity"], metrics["bits_per_byte"]]
    columns += [metrics[name] for name in ("kl", "agreement") if name in metrics]
    print(f"{name:34}{seed:5}", *(f"{value:11.4f}" for value in columns), f"{seconds:9.0f} s")
    return found


def distilled(loss, seed, **fields):
    config = jb.DistillationConfig(
        kd_loss_type=loss, temperature=1, kd_loss_weight=1, hard_label_weight=0
    )
    made = student()
    source = None if fields else teacher
    training = make_distillation(
        task, source, made, train, config, optimization(options.steps, options.learning_rate),
        settings_of(seed, **fields),
    )  # fmt: skip
    training.train()
    return made


def trained_on_labels(seed):
    made = student()
    plan = optimization(options.steps, options.learning_rate)
    make_fine_tuning(task, made, train, plan, settings_of(seed)).train()
    return made


def timed(name, seed, make, *arguments, **fields):
    start = time.monotonic()
    made = make(*arguments, **fields)
    score(name, seed, made, time.monotonic() - start)


with tempfile.TemporaryDirectory() as folder:
    path = Path(options.model or folder)
    if options.model is None:
        save_small_model(path)
    tokenizer, start = Tokenizer(path), time.monotonic()
    glosses = load_glosses().texts
    order = np.random.default_rng(0).permutation(len(glosses) // 8 * 8).reshape(-1, 8)
    texts = ["\n".join(glosses[row] for row in rows) for rows in order]
    test_texts = Corpus("text", texts[: options.test_texts], [""] * options.test_texts)
    test = task.encode(tokenizer, test_texts)
    # as many texts as one pass of the steps needs: about 130 tokens, or 450 bytes, each
    needed = options.steps * options.rows * options.width // (130 if options.model else 450)
    train = documents_of(texts[options.test_texts :][: needed + 20])

    teacher = load(path, "causal-language-modeling")
    if options.model is None:
        everything = documents_of(texts[options.test_texts :][:2_500])
        plan = optimization(options.teacher_steps, 3e-3)
        make_fine_tuning(task, teacher, everything, plan, settings_of(0)).train()

    print(f"{'':39}", *(f"{name:>11}" for name in ("perplexity", "bits/byte", "kl", "agreement")))
    as_teacher = score("teacher", "", teacher, time.monotonic() - start)
    score(f"{options.layers} of its layers, untrained", "", student(), 0)
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
    print(
        f"The cache took {building:.0f} s to build and holds {report['positions']:,.0f} tokens in "
        f"{report['bytes_per_position']:.0f} bytes each."
    )
