"""Text classification: the adaptor, fine-tuning, distillation, prediction and scores."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ..cache import build_cache
from ..configs import DistillationConfig, OptimizationConfig, TrainingConfig
from ..devices.estimate import Estimate
from ..distillers import BasicTrainer, GeneralDistiller, Result
from ..forward.as_model import as_model
from ..forward.freezing import freeze
from ..forward.model import Model
from ..losses import masked_mean
from ..run.plan import Plan
from .loader import TextLoader
from .tokenize import Encoded


def make_adamw(optimization: OptimizationConfig, total_steps: int) -> optax.GradientTransformation:
    """AdamW with linear warm-up and decay over ``total_steps``; only matrices decay."""
    peak = optimization.learning_rate
    warmup = round(optimization.warmup * total_steps)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.linear_schedule(peak, 0.0, total_steps - warmup),
        ],
        [warmup],
    )
    return optax.adamw(rate, weight_decay=optimization.weight_decay, mask=_matrices)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def adaptor(batch: Mapping[str, Array], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The adaptor of a classifier; a negative label means that the example has none."""
    answer = {
        "logits": outputs["logits"],
        "inputs_mask": batch["attention_mask"],
        "hidden": outputs.get("hidden_states"),
        "attention": outputs.get("attention_scores"),
    }
    if "labels" in batch:
        has_label = batch["labels"] >= 0
        labels = jnp.where(has_label, batch["labels"], 0)
        loss = optax.softmax_cross_entropy_with_integer_labels(
            outputs["logits"].astype(jnp.float32), labels
        )
        answer |= {"labels": batch["labels"], "losses": masked_mean(loss, has_label)}
    return answer


@dataclasses.dataclass(frozen=True)
class ClassifierTraining:
    """A classifier's training that is ready to run.

    Attributes:
        trainer: The trainer or distiller.
        loader: The texts.
        optimization: The optimizer's settings.
    """

    trainer: BasicTrainer | GeneralDistiller
    loader: TextLoader
    optimization: OptimizationConfig

    def train(self) -> Result:
        """Runs the training."""
        return self._call(self.trainer.train)

    def check(self) -> Plan:
        """Raises the errors that :meth:`train` would raise, by tracing the first step."""
        return self._call(self.trainer.check)

    def estimate(self) -> Estimate:
        """Estimates what a step needs of each device, without running it."""
        return self._call(self.trainer.estimate)

    def _call(self, method: Callable[..., Any]) -> Any:
        optimization = self.optimization
        steps_per_epoch = len(self.loader) // self.trainer.train_config.gradient_accumulation_steps
        steps = optimization.num_steps or optimization.num_epochs * max(steps_per_epoch, 1)
        return method(
            make_adamw(optimization, steps),
            self.loader,
            num_epochs=None if optimization.num_steps else optimization.num_epochs,
            num_steps=optimization.num_steps,
            max_grad_norm=optimization.max_grad_norm,
        )


def make_fine_tuning(
    model: Any,
    encoded: Encoded,
    labels: Int[np.ndarray, " examples"],
    optimization: OptimizationConfig,
    training: TrainingConfig,
    *,
    frozen: tuple[str, ...] = (),
) -> ClassifierTraining:
    """Prepares to train a classifier on labels; ``frozen`` holds prefixes of parameter paths."""
    loader = _make_loader(encoded, labels, optimization, training)
    trainer = BasicTrainer(training, freeze(model, *frozen), adaptor)
    return ClassifierTraining(trainer, loader, optimization)


def make_distillation(
    teacher: Any,
    student: Any,
    encoded: Encoded,
    labels: Int[np.ndarray, " examples"],
    distillation: DistillationConfig,
    optimization: OptimizationConfig,
    training: TrainingConfig,
) -> ClassifierTraining:
    """Prepares to distil a classifier on labelled and, where ``labels`` are negative, other texts.

    Args:
        teacher: The teacher.
        student: The student.
        encoded: The texts.
        labels: The class number of each text; negative where there is none.
        distillation: Losses, temperature and matches.
        optimization: The optimizer's settings.
        training: Directories, devices and checkpoints; its ``cache_dir`` may hold the teacher's
            outputs, from :func:`cache_teacher`.
    """
    loader = _make_loader(encoded, labels, optimization, training)
    distiller = GeneralDistiller(training, distillation, teacher, student, adaptor, adaptor)
    return ClassifierTraining(distiller, loader, optimization)


def cache_teacher(
    directory: str | Path, teacher: Any, encoded: Encoded, *, batch_size: int = 64
) -> None:
    """Runs a teacher over texts once and stores its logits in a cache on disk.

    Trainings on these texts, or on the first of them, read it as their
    ``TrainingConfig.cache_dir``.

    Args:
        directory: Where to store it.
        teacher: The teacher.
        encoded: The texts.
        batch_size: Texts per batch.
    """
    loader = TextLoader(encoded, min(batch_size, len(encoded)), shuffle=False)
    build_cache(directory, teacher, adaptor, loader)


def _make_loader(
    encoded: Encoded,
    labels: Int[np.ndarray, " examples"],
    optimization: OptimizationConfig,
    training: TrainingConfig,
) -> TextLoader:
    """The loader of a training; a step is compiled for each combination of its widths."""
    return TextLoader(
        encoded,
        optimization.batch_size,
        labels=labels,
        seed=training.seed,
        num_widths=max(4 // training.gradient_accumulation_steps, 1),
        per_process=training.local_batches,
    )


def train(*args: Any, **keywords: Any) -> Result:
    """Trains a classifier; takes the arguments of :func:`make_fine_tuning`."""
    return make_fine_tuning(*args, **keywords).train()


def distill(*args: Any, **keywords: Any) -> Result:
    """Distils a classifier; takes the arguments of :func:`make_distillation`."""
    return make_distillation(*args, **keywords).train()


def predict(
    model: Any, encoded: Encoded, *, batch_size: int = 64
) -> Float[np.ndarray, "examples classes"]:
    """The logits of a classifier in evaluation mode, in the order of the examples."""
    return _timed_logits(model, encoded, batch_size)[0]


class Scores(NamedTuple):
    """Quality and speed of a classifier.

    Attributes:
        accuracy: Fraction of examples whose class has the largest logit.
        loss: Mean cross-entropy of the labels, in nats.
        examples_per_second: Speed of the model, without compilation.
    """

    accuracy: float
    loss: float
    examples_per_second: float


def evaluate(
    model: Any, encoded: Encoded, labels: Int[np.ndarray, " examples"], *, batch_size: int = 64
) -> Scores:
    """Scores a classifier on labelled texts."""
    logits, seconds = _timed_logits(model, encoded, batch_size)
    known = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[known], labels[known])
    return Scores(accuracy(logits, labels), float(losses.mean()), len(encoded) / seconds)


def _timed_logits(
    model: Any, encoded: Encoded, batch_size: int
) -> tuple[Float[np.ndarray, "examples classes"], float]:
    """Returns logits in the order of the examples, and the seconds that the model took."""
    wrapped: Model = as_model(model)

    @jax.jit
    def logits_of(variables: Any, batch: Any) -> Array:
        outputs, _ = wrapped.apply(variables["params"], variables["state"], batch, train=False)
        return outputs["logits"]

    loader = TextLoader(encoded, min(batch_size, len(encoded)), shuffle=False)
    programs: dict[tuple[int, ...], Any] = {}
    for batch in loader:
        del batch["example_id"]
        shape = batch["input_ids"].shape
        if shape not in programs:
            programs[shape] = logits_of.lower(wrapped.variables, batch).compile()
    found: list[tuple[np.ndarray, Array]] = []
    start = time.perf_counter()
    for batch in loader:
        rows = batch.pop("example_id")
        program = programs[batch["input_ids"].shape]
        found.append((rows, program(wrapped.variables, batch)))
    logits = np.concatenate([np.asarray(part) for _, part in found])
    seconds = time.perf_counter() - start
    return logits[np.argsort(np.concatenate([rows for rows, _ in found]))], seconds


def accuracy(
    logits: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> float:
    """The fraction of labelled examples whose class has the largest logit."""
    known = labels >= 0
    return float(np.mean(logits[known].argmax(-1) == labels[known]))
