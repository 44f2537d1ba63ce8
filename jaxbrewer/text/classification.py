"""Text classification with a BERT: what it learns, how it is trained, how good it is."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ..configs import DistillationConfig, OptimizationConfig, TrainingConfig
from ..distillers import BasicTrainer, GeneralDistiller, Result
from ..functional import Model, as_model, freeze
from ..losses import masked_mean
from .loader import TextLoader
from .tokenize import Encoded


def make_adamw(optimization: OptimizationConfig, total_steps: int) -> optax.GradientTransformation:
    """The optimizer that ``optimization`` describes, for a training of so many updates."""
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
    """The adaptor of a BERT classifier; examples with a negative label have no label."""
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


def train(
    model: Any,
    encoded: Encoded,
    labels: Int[np.ndarray, " examples"],
    optimization: OptimizationConfig,
    training: TrainingConfig,
    *,
    frozen: tuple[str, ...] = (),
) -> Result:
    """Trains a classifier on labels; ``frozen`` are the beginnings of parameter paths."""
    loader = TextLoader(encoded, optimization.batch_size, labels=labels, seed=training.seed)
    trainer = BasicTrainer(training, freeze(model, *frozen), adaptor)
    return _train(trainer, loader, optimization)


def distill(
    teacher: Any,
    student: Any,
    encoded: Encoded,
    labels: Int[np.ndarray, " examples"],
    distillation: DistillationConfig,
    optimization: OptimizationConfig,
    training: TrainingConfig,
    *,
    teacher_logits: Float[np.ndarray, "examples classes"] | None = None,
) -> Result:
    """Distils a classifier, on labelled texts and, where ``labels`` are negative, unlabelled ones.

    Args:
        teacher: The teacher.
        student: The student.
        encoded: The texts.
        labels: Their classes.
        distillation: What the student is taught.
        optimization: How it is trained.
        training: How the training runs.
        teacher_logits: What the teacher says of each text (:func:`predict`); the teacher is then
            not run again. For distillation of logits alone.
    """
    loader = TextLoader(encoded, optimization.batch_size, labels=labels, seed=training.seed)
    distiller = GeneralDistiller(training, distillation, teacher, student, adaptor, adaptor)
    if teacher_logits is None:
        return _train(distiller, loader, optimization)

    def with_cache(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "teacher_cache": {"logits": teacher_logits[batch["index"]]}}

    return _train(distiller, loader, optimization, batch_postprocessor=with_cache)


def _train(
    trainer: BasicTrainer | GeneralDistiller,
    loader: TextLoader,
    optimization: OptimizationConfig,
    **arguments: Any,
) -> Result:
    updates_per_epoch = len(loader) // trainer.train_config.gradient_accumulation_steps
    steps = optimization.num_steps or optimization.num_epochs * max(updates_per_epoch, 1)
    return trainer.train(
        make_adamw(optimization, steps),
        loader,
        num_epochs=None if optimization.num_steps else optimization.num_epochs,
        num_steps=optimization.num_steps,
        max_grad_norm=optimization.max_grad_norm,
        **arguments,
    )


def predict(
    model: Any, encoded: Encoded, *, batch_size: int = 64
) -> Float[np.ndarray, "examples classes"]:
    """The logits of a classifier in evaluation mode, in the order of the examples."""
    wrapped: Model = as_model(model)

    @jax.jit
    def logits_of(variables: Any, batch: Any) -> Array:
        outputs, _ = wrapped.apply(variables["params"], variables["state"], batch, train=False)
        return outputs["logits"]

    found: list[tuple[np.ndarray, Array]] = []
    for batch in TextLoader(encoded, min(batch_size, len(encoded)), shuffle=False):
        rows = batch.pop("index")
        found.append((rows, logits_of(wrapped.variables, batch)))
    rows = np.concatenate([part for part, _ in found])
    logits = np.concatenate([np.asarray(part) for _, part in found])
    return logits[np.argsort(rows)]


def accuracy(
    logits: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> float:
    """The share of labelled examples whose class has the largest logit."""
    known = labels >= 0
    return float(np.mean(logits[known].argmax(-1) == labels[known]))
