"""Work that is saved, or done beside a step: of the teacher, of padding, of small batches."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxbrewer as jb
from jaxbrewer.cache import cache_by_example
from jaxbrewer.text import TextLoader

from ..common import Clock, Row, ratio
from .inputs import (
    BATCH_SIZE,
    as_it_is,
    make_tokenizer,
    make_work,
    teacher_outputs,
    train_epochs,
)

STUDENTS, EPOCHS = 3, 3


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Students of 2 layers x 128 and a teacher of 6 layers x 384 on definitions of WordNet."""
    texts, labels, (teacher, student) = make_work(is_toy)
    rounds = 2 if is_toy else 7
    with tempfile.TemporaryDirectory() as folder:
        encoded = make_tokenizer(Path(folder), texts).encode(texts, max_length=48)

    def loader(**fields: Any) -> TextLoader:
        return TextLoader(encoded, BATCH_SIZE, labels=labels, drop_last=True, **fields)

    yield from _one_pass(teacher, student, loader, rounds)
    yield from _widths(student, loader, encoded, rounds)
    yield from _teacher_batches(teacher, 16 if is_toy else 256, rounds)
    yield from _separate_teacher(*((1, 2, 3) if is_toy else (5, 80, 1000)))


def _one_pass(teacher: Any, student: Any, loader: Any, rounds: int) -> Iterator[Row]:
    """The teacher in every step, against one pass whose outputs all students share."""
    distilled = jb.DistillationConfig()
    from_teacher = teacher_outputs(teacher, distilled)
    live = train_epochs(student, teacher, distilled, loader(), as_it_is)
    attach = cache_by_example(loader(), from_teacher)
    cached = train_epochs(student, None, distilled, loader(), attach)
    clocks = {name: Clock() for name in ("live", "shared")}
    next(live), next(cached)
    for _ in range(rounds):
        clocks["live"].seconds.append(STUDENTS * EPOCHS * next(live))
        reading = Clock()
        reading.time(lambda: jax.block_until_ready([from_teacher(batch) for batch in loader()]))
        clocks["shared"].seconds.append(reading.median + STUDENTS * EPOCHS * next(cached))
    name = f"{STUDENTS} students, {EPOCHS} epochs: one pass of the teacher / one in every step"
    yield ratio("less", name, clocks["shared"], clocks["live"])


def _widths(student: Any, loader: Any, encoded: Any, rounds: int) -> Iterator[Row]:
    """Batches of several widths, against all batches as wide as the longest text."""
    loaders = {count: loader(num_widths=count) for count in (1, 2, 4, 8)}
    alone = jb.DistillationConfig(hard_label_weight=1)
    epochs = {
        count: train_epochs(student, None, alone, one, as_it_is) for count, one in loaders.items()
    }
    clocks = {count: Clock() for count in loaders}
    for epoch in epochs.values():
        next(epoch)
    for _ in range(rounds):
        for count, epoch in epochs.items():
            clocks[count].seconds.append(next(epoch))
    for count, one in loaders.items():
        masks = [batch["attention_mask"] for batch in one]
        padding = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)
        yield ratio("less", f"an epoch with {count} widths / with one", clocks[count], clocks[1],
                    f"{padding:.1%} of the tokens are padding")  # fmt: skip


def _teacher_batches(teacher: Any, most: int, rounds: int) -> Iterator[Row]:
    """A pass of the teacher in larger batches, per example."""
    forward = jax.jit(
        lambda variables, batch: teacher.apply(
            variables["params"], variables["state"], batch, train=False
        )[0]["logits"]
    )
    rng, clocks = np.random.default_rng(0), {}
    counts = [most // 8, most // 4, most // 2, most]
    ids = rng.integers(5, 100, (most, 32)).astype(np.int32)
    batches = {
        count: [{"input_ids": part, "attention_mask": np.ones_like(part)}
                for part in np.split(ids, most // count)]
        for count in counts
    }  # fmt: skip
    clocks = {count: Clock() for count in counts}
    for turn in range(rounds + 1):
        for count, parts in batches.items():
            clock = clocks[count] if turn else Clock()
            clock.time(lambda parts=parts: [forward(teacher.variables, part) for part in parts])
    for count in counts[1:]:
        yield ratio("less", f"the teacher in batches of {count} / of {counts[0]}", clocks[count],
                    clocks[counts[0]], "32 tokens each")  # fmt: skip


def _separate_teacher(rounds: int, steps: int, products: int) -> Iterator[Row]:
    """A teacher on a device of its own, in a process with two."""
    words = "-m", "benchmarks.suite.two_devices", *map(str, (rounds, steps, products))
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds = {name: np.array(values) for name, values in json.loads(done.stdout).items()}

    def hidden(name: str) -> np.ndarray:
        """The quartiles of the share of the teacher's time that does not lengthen a step."""
        added = seconds[name] - seconds["student"]
        return np.quantile(100 * (1 - added / seconds["teacher"]), [0.25, 0.5, 0.75])

    low, middle, high = hidden("two devices")
    times = ", ".join(f"{name} {1e3 * np.median(x):.3g}" for name, x in seconds.items())
    yield Row("less", "a teacher on its own device: hidden of its time", float(middle), "%",
              f"quartiles {low:.1f} to {high:.1f}; aim 90; without exchange "
              f"{hidden('without exchange')[1]:.1f}; ms/step: {times}")  # fmt: skip
