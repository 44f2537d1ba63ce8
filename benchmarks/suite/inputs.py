"""What data cost: a loader beside ready batches, tokenization, and teachers from a cache."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.cache import Storage, TeacherCache, build_cache, cache_by_example, with_outputs
from jaxbrewer.configs import OptimizationConfig
from jaxbrewer.demo.wordnet import load_glosses
from jaxbrewer.models import BertConfig, BertForSequenceClassification
from jaxbrewer.step.teachers import make_teacher_step, only_needed
from jaxbrewer.text import Encoded, TextLoader, Tokenizer
from jaxbrewer.text.tasks.classification import adaptor
from jaxbrewer.text.training import make_adamw

from ..common import Clock, Row, ratio

BATCH_SIZE = 32


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Epochs of a student of 2 layers x 128, with a teacher of 6 layers x 384."""
    texts, labels, (teacher, student) = make_work(is_toy)
    count, rounds = len(texts), 2 if is_toy else 7
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder), texts)
        start = time.perf_counter()
        encoded = tokenizer.encode(texts, max_length=48)
        tokenized = count / (time.perf_counter() - start)
        clocks = {name: Clock() for name in _VARIANTS}
        epochs = dict(_epochs(Path(folder), teacher, student, encoded, labels))
        for one_epoch in epochs.values():
            next(one_epoch)  # compiles
        for _ in range(rounds):
            for name, one_epoch in epochs.items():
                clocks[name].seconds.append(next(one_epoch))
    floor = clocks["labels alone"]
    yield Row("input", "labels alone", count / floor.median, "examples/s",
              f"{count:,} glosses, batches of {BATCH_SIZE}, 2 layers x 128")  # fmt: skip
    yield Row("input", "tokenization / labels alone", tokenized * floor.median / count, "x speed",
              "aim above 2")  # fmt: skip
    for name, aim in _VARIANTS.items():
        if name != "labels alone":
            yield ratio("input", f"{name} / labels alone", clocks[name], floor, aim)


_VARIANTS = {
    "labels alone": "",
    "labels alone, batches made before": "1 less this is the wait for data; aim above 0.99",
    "live teacher": "",
    "cache in memory": "",
    "cache on disk, full": "aim at most 1.03",
    "cache on disk, top 8": "aim at most 1.03",
}


def _epochs(
    folder: Path, teacher: Any, student: Any, encoded: Encoded, labels: Any
) -> Iterator[tuple[str, Iterator[float]]]:
    """A generator of each variant, which trains an epoch and yields its seconds."""

    def loader() -> TextLoader:
        return TextLoader(encoded, BATCH_SIZE, labels=labels, drop_last=True)

    caches = {}
    for storage in (Storage(), Storage("top_k", k=8)):
        path = folder / storage.kind
        plain = TextLoader(encoded, 64, shuffle=False)
        build_cache(path, teacher, adaptor, plain, storage=storage)
        caches[storage.kind] = TeacherCache(path)
    alone, distilled = jb.DistillationConfig(hard_label_weight=1), jb.DistillationConfig()
    in_memory = cache_by_example(loader(), teacher_outputs(teacher, distilled))
    variants = (
        (None, alone, loader(), as_it_is),
        (None, alone, [dict(batch) for batch in loader()], as_it_is),
        (teacher, distilled, loader(), as_it_is),
        (None, distilled, loader(), in_memory),
        (None, distilled, loader(), lambda batch: with_outputs(batch, caches["full"])),
        (None, distilled, loader(), lambda batch: with_outputs(batch, caches["top_k"])),
    )
    for name, variant in zip(_VARIANTS, variants, strict=True):
        yield name, train_epochs(student, *variant)


def teacher_outputs(teacher: Any, config: Any) -> Any:
    """A function from a batch to what a distillation needs of the teacher for it."""
    forward = make_teacher_step(teacher, adaptor)
    outputs_of = jax.jit(lambda variables, batch: only_needed(forward(variables, batch), config))

    def from_teacher(batch: Any) -> Any:
        own = {key: x for key, x in batch.items() if key not in ("example_id", "teacher_cache")}
        return outputs_of(teacher.variables, own)

    return from_teacher


def as_it_is(batch: Any) -> Any:
    """A batch without cached outputs."""
    return batch


def train_epochs(
    student: Any, teacher: Any, config: Any, batches: Any, attach: Any
) -> Iterator[float]:
    """Yields the seconds of one epoch after another."""
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
        start = time.perf_counter()
        for batch in batches:
            state, metrics = step(state, variables, attach(batch))
        jax.block_until_ready(metrics)
        yield time.perf_counter() - start


def make_work(is_toy: bool) -> tuple[list[str], Any, tuple[Any, Any]]:
    """Definitions of WordNet, their classes, and a teacher and a student of these."""
    found = load_glosses()
    rows = np.random.default_rng(0).permutation(len(found))[: 64 if is_toy else 1024]
    sizes = ((1, 32), (1, 16)) if is_toy else ((6, 384), (2, 128))
    teacher, student = (_bert(*size, len(found.label_names)) for size in sizes)
    return [found.texts[row] for row in rows], found.labels[rows], (teacher, student)


def _bert(layers: int, width: int, classes: int) -> Any:
    """A classifier with random weights, as a model of the package."""
    config = BertConfig(
        vocab_size=8192, hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width,
        num_attention_heads=max(width // 32, 1), max_position_embeddings=64, num_labels=classes,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return jb.as_model(BertForSequenceClassification(config, rngs=nnx.Rngs(0)))


def make_tokenizer(folder: Path, texts: list[str]) -> Tokenizer:
    """WordPiece with a vocabulary of at most 8,192 tokens from these texts."""
    made = tokenizers.BertWordPieceTokenizer()
    made.train_from_iterator(texts, vocab_size=8192, show_progress=False)
    made.save_model(str(folder))
    return Tokenizer(folder)
