"""A training run of the reference values: its batches, its steps, its optimizer."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from . import Case, Output

Batch = dict[str, Any]


def arrays(case: Case, folder: str, dtype: str) -> dict[str, np.ndarray]:
    """The inputs under ``folder``; floating-point ones in ``dtype``."""
    return {
        name.removeprefix(f"{folder}/"): x.astype(dtype) if x.dtype.kind == "f" else x
        for name, x in case.inputs.items()
        if name.startswith(f"{folder}/")
    }


def batches_of(case: Case, dtype: str) -> list[Batch]:
    """The batches in the order in which TextBrewer drew them."""
    data = arrays(case, "data", dtype)
    return [_batch(case, data, rows[rows >= 0]) for rows in case.outputs["order"].float64]


def _batch(case: Case, data: Mapping[str, np.ndarray], rows: np.ndarray) -> Batch:
    batch: Batch = {name: x[rows] for name, x in data.items()}
    if not case.args.get("split_batch"):
        return batch
    split = {
        "teacher": {"x": batch["x_T"]},
        "student": {name: batch[name] for name in ("x", "labels")},
    }
    if case.args.get("teacher_cache"):
        split["teacher_cache"] = {"logits": [batch["teacher_cache_logits"]]}
    return split


def task_sequence(case: Case) -> list[str]:
    """The task of each batch of a multi-task run."""
    tasks = list(case.args["teacher"])
    return [tasks[index] for index in case.outputs["task_sequence"].float64]


def task_batches_of(case: Case, dtype: str) -> dict[str, list[Batch]]:
    """Each task's batches in the order in which they were drawn."""
    data = {task: arrays(case, f"data_{task}", dtype) for task in case.args["teacher"]}
    batches: dict[str, list[Batch]] = {task: [] for task in data}
    for task, rows in zip(task_sequence(case), case.outputs["order"].float64, strict=True):
        batches[task].append({name: x[rows[rows >= 0]] for name, x in data[task].items()})
    return batches


def steps_of(case: Case) -> list[list[int]]:
    """The batches of each optimizer step, without an epoch's last ones that fill no group."""
    size = case.args.get("t_config", {}).get("gradient_accumulation_steps", 1)
    steps, per_epoch = case.args["num_forward_steps"], case.args["batches_per_epoch"]
    if "num_steps" in case.args["train"]:
        per_epoch = steps
    return [
        list(range(first, first + size))
        for epoch in range(0, steps, per_epoch)
        for first in range(epoch, epoch + per_epoch - size + 1, size)
    ]


def references(case: Case) -> dict[str, Output]:
    """The values to compare: outputs per batch as means over the batches of each step."""
    updates = steps_of(case)
    kept = {
        name: out
        for name, out in case.outputs.items()
        if name not in ("order", "lr", "task_sequence")
    }
    for name, output in kept.items():
        if name.startswith("log/") or name in ("kd_weight", "hard_weight"):
            means = (each[np.asarray(updates)].mean(1) for each in (output.float32, output.float64))
            kept[name] = Output(*means, output.spec)
    return kept


class Replay:
    """A loader that yields exactly these batches in every epoch."""

    def __init__(self, batches: list[Batch], per_epoch: int):
        self._batches, self._per_epoch, self._epoch = batches, per_epoch, 0

    def __len__(self) -> int:
        return self._per_epoch

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        first = self._epoch * self._per_epoch
        yield from self._batches[first : first + self._per_epoch]


def optimizer_of(case: Case) -> Callable[..., optax.GradientTransformation]:
    """The case's optax optimizer, as a partial, so that ``proj[3]`` can change its settings."""
    settings = dict(case.args["optimizer"])
    kind, settings["learning_rate"] = settings.pop("type"), settings.pop("lr")
    if "betas" in settings:
        settings["b1"], settings["b2"] = settings.pop("betas")
    if settings.pop("no_decay", False):
        decayed = case.args["optimizer_groups"][0]["params"]
        settings["mask"] = lambda params: {name: name in decayed for name in params}
    factory = {"SGD": _sgd, "Adam": optax.adam, "AdamW": optax.adamw}[kind]
    return functools.partial(_scheduled, factory, factors_of(case), **settings)


def factors_of(case: Case) -> np.ndarray:
    """The factor of every learning rate at each step."""
    steps = np.arange(case.args["num_optimizer_steps"])
    if "lr_schedule" not in case.args:
        return np.ones(len(steps))
    warmup, total = case.args["lr_schedule"]["warmup"], case.args["lr_schedule"]["total"]
    falling = np.maximum(0, (total - steps) / max(1, total - warmup))
    return np.where(steps < warmup, steps / max(1, warmup), falling)


def _scheduled(
    factory: Callable[..., Any], factors: np.ndarray, learning_rate: float, **settings: Any
) -> optax.GradientTransformation:
    return factory(lambda count: jnp.asarray(learning_rate * factors)[count], **settings)


def _sgd(
    learning_rate: Any, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(learning_rate, momentum or None, nesterov))
