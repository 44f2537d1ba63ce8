"""Trains a model for a task on text: fine-tuning, distillation, and a cached teacher."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from ..cache import build_cache
from ..configs import DistillationConfig, LayerMap, OptimizationConfig, TrainingConfig
from ..configs.data import NOT_LEARNED
from ..devices.estimate import Estimate
from ..distillers import BasicTrainer, GeneralDistiller, MultiTeacherDistiller, Result
from ..errors import UsageError, abbreviate
from ..forward.freezing import freeze
from ..registry import MATCH_LOSS_MAP
from ..run.plan import Plan
from .loader import TextLoader, TokenLoader
from .tasks import Task
from .tokenize import Encoded

NUM_WIDTHS = 4
"""Default maximum number of widths of the batches of a training."""


def make_adamw(optimization: OptimizationConfig, total_steps: int) -> optax.GradientTransformation:
    """AdamW with linear warm-up and decay over ``total_steps``; only matrices decay.

    Its state keeps the learning rate, which a train step returns among its metrics.
    """
    peak = optimization.learning_rate
    warmup = round(optimization.warmup * total_steps)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.linear_schedule(peak, 0.0, total_steps - warmup),
        ],
        [warmup],
    )
    fixed = set(inspect.signature(optax.adamw).parameters) - {"learning_rate"}
    make = optax.inject_hyperparams(optax.adamw, static_args=fixed)
    return make(rate, weight_decay=optimization.weight_decay, mask=_matrices)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


@dataclasses.dataclass(frozen=True)
class TextTraining:
    """A training that is ready to run.

    Attributes:
        trainer: The trainer or distiller.
        loader: The texts.
        optimization: The optimizer's settings.
    """

    trainer: BasicTrainer | GeneralDistiller | MultiTeacherDistiller
    loader: TokenLoader
    optimization: OptimizationConfig

    def train(self, callback: Callable[..., Any] | None = None) -> Result:
        """Runs the training; ``callback`` is that of the trainer, such as a ``Validation``."""
        return self._call(self.trainer.train, callback=callback)

    def check(self, callback: Callable[..., Any] | None = None) -> Plan:
        """Raises the errors that :meth:`train` would raise, by tracing the first step."""
        return self._call(self.trainer.check, callback=callback)

    def estimate(self) -> Estimate:
        """Estimates what a step needs of each device, without running it."""
        return self._call(self.trainer.estimate)

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        """One object for all calls, so that what one has traced or compiled serves the next."""
        return make_adamw(self.optimization, self.optimization.total_steps(self.steps_per_epoch))

    def _call(self, method: Callable[..., Any], **options: Any) -> Any:
        optimization = self.optimization
        num_epochs, num_steps = optimization.length(self.steps_per_epoch)
        return method(
            self._optimizer,
            self.loader,
            num_epochs=num_epochs,
            num_steps=num_steps,
            max_grad_norm=optimization.max_grad_norm,
            **options,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the texts, at least 1."""
        return _steps_per_epoch(self.loader, self.trainer.train_config)


def make_fine_tuning(
    task: Task[Any],
    model: Any,
    encoded: Encoded,
    optimization: OptimizationConfig,
    training: TrainingConfig,
    *,
    frozen: tuple[str, ...] = (),
    num_widths: int = NUM_WIDTHS,
) -> TextTraining:
    """Prepares to train a model on labels.

    Args:
        task: The task.
        model: The model.
        encoded: The examples, with their labels.
        optimization: The optimizer's settings.
        training: Directories, devices and checkpoints.
        frozen: Prefixes of the paths of parameters that stay as they are.
        num_widths: Maximum number of widths of batches, for each of which a step is compiled.
    """
    loader = make_loader(task, encoded, optimization, training, num_widths=num_widths)
    training = _with_checkpoints(training, optimization, loader)
    training = dataclasses.replace(training, teacher_device=None)  # there is no teacher
    trainer = BasicTrainer(training, freeze(model, *frozen), task.adaptor)
    trainer.run_facts = lambda: {"data": data_facts(task, encoded)}
    return TextTraining(trainer, loader, optimization)


def make_distillation(
    task: Task[Any],
    teacher: Any,
    student: Any,
    encoded: Encoded,
    distillation: DistillationConfig,
    optimization: OptimizationConfig,
    training: TrainingConfig,
    *,
    student_encoded: Encoded | None = None,
    num_widths: int = NUM_WIDTHS,
) -> TextTraining:
    """Prepares to distil a model on labelled and, where labels are missing, other texts.

    Args:
        task: The task.
        teacher: The teacher, or a list of several; ``None`` if the examples have the column
            ``"teacher_cache"``, the teacher's logits.
        student: The student.
        encoded: The examples.
        distillation: Losses, temperature and matches.
        optimization: The optimizer's settings.
        training: Directories, devices and checkpoints; its ``cache_dir`` may hold the teacher's
            outputs, from :func:`cache_teacher`.
        student_encoded: The examples as the student's tokenizer reads them, if it has another one
            than the teacher.
        num_widths: As for :func:`make_fine_tuning`.

    Raises:
        UsageError: The task or the tokenizers do not allow the losses or a cache.
    """
    task.require_losses(distillation)
    if training.cache_dir is not None or distillation.is_caching_logits:
        task.require_cacheable()
    parts: Encoded | dict[str, Encoded] = encoded
    if student_encoded is not None:
        require_no_tokens_compared(task, distillation)
        parts = {"teacher": encoded, "student": student_encoded}
    loader = make_loader(task, parts, optimization, training, num_widths=num_widths)
    if training.cache_dir is not None:
        require_width_of_cache(distillation, loader, "leave out training.cache_dir")
    training = _with_checkpoints(training, optimization, loader)
    make: Any = MultiTeacherDistiller if isinstance(teacher, list) else GeneralDistiller
    adaptor_T = None if teacher is None else task.adaptor
    distiller = make(training, distillation, teacher, student, adaptor_T, task.adaptor)
    distiller.run_facts = lambda: {"data": data_facts(task, parts)}
    return TextTraining(distiller, loader, optimization)


def data_facts(task: Task[Any], encoded: Encoded | Mapping[str, Encoded]) -> dict[str, Any]:
    """What a resumed training must find again: the settings of its data, and digests of its texts.

    Args:
        task: The task.
        encoded: The texts; by model if teacher and student read different tokens.
    """
    parts = encoded if isinstance(encoded, Mapping) else {"": encoded}
    settings = {
        name: value for name, value in task.data.to_dict().items() if name not in NOT_LEARNED
    }
    texts = {f"texts {name}".strip(): part.digest() for name, part in parts.items()}
    return {**settings, **texts}


def require_no_tokens_compared(task: Task[Any], distillation: DistillationConfig) -> None:
    """Checks a distillation whose models read different tokens.

    Raises:
        UsageError: The task or a match compares the models token by token.
    """
    if task.reads_same_tokens:
        raise UsageError(
            f"data.task {task.name!r} compares tokens: teacher and student must have the same "
            "tokenizer."
        )
    for match in (*distillation.intermediate_matches, *distillation.custom_matches):
        loss = match.named_loss[1] if isinstance(match, LayerMap) else match.loss
        is_embedding = getattr(match, "feature", None) == "embedding"
        if not is_embedding and not MATCH_LOSS_MAP.row(loss).of_examples:
            name = match.map if isinstance(match, LayerMap) else match.name
            raise UsageError(
                f"The match {name} compares tokens, but teacher and student have different "
                "tokenizers: match embeddings (feature 'embedding'), or use a loss of whole "
                f"examples ({', '.join(_losses_of_examples())})."
            )


def require_width_of_cache(
    distillation: DistillationConfig, loader: TokenLoader, remedy: str
) -> None:
    """Checks that a cache on disk can hold what a distillation compares.

    Args:
        distillation: The matches.
        loader: The batches that read the cache.
        remedy: How the user does without the cache.

    Raises:
        UsageError: A match compares attention, which is kept as wide as its batch, and batches have
            several widths.
    """
    for match in distillation.intermediate_matches:
        feature = match.named_loss[0] if isinstance(match, LayerMap) else match.feature
        if feature == "attention" and len(loader.widths) > 1:
            name = match.map if isinstance(match, LayerMap) else match.name
            raise UsageError(
                f"The match {name} compares attention, which a cache on disk keeps as wide as its "
                f"batch, but batches are {abbreviate(loader.widths)} tokens wide: {remedy}, or "
                "match hidden states."
            )


def _losses_of_examples() -> list[str]:
    return [name for name in MATCH_LOSS_MAP if MATCH_LOSS_MAP.row(name).of_examples]


def cache_teacher(
    directory: str | Path,
    task: Task[Any],
    teacher: Any,
    encoded: Encoded,
    *,
    batch_size: int = 64,
    num_widths: int = NUM_WIDTHS,
    **options: Any,
) -> None:
    """Runs a teacher over texts once and stores its outputs in a cache on disk.

    Trainings on these texts, or on the first of them, read it as their
    ``TrainingConfig.cache_dir``.

    Args:
        directory: Where to store it.
        task: The task.
        teacher: The teacher.
        encoded: The texts.
        batch_size: Texts per batch.
        num_widths: As for :func:`make_fine_tuning`.
        options: Options of :func:`~jaxbrewer.build_cache`.
    """
    task.require_cacheable()
    texts = encoded.without(*task.label_columns)
    size = min(batch_size, len(texts))
    loader = TextLoader(texts, size, shuffle=False, num_widths=num_widths)
    build_cache(directory, teacher, task.adaptor, loader, **options)


def _steps_per_epoch(loader: TokenLoader, training: TrainingConfig) -> int:
    return max(len(loader) // training.gradient_accumulation_steps, 1)


def _with_checkpoints(
    training: TrainingConfig, optimization: OptimizationConfig, loader: TokenLoader
) -> TrainingConfig:
    """Gives a training that ``min_steps`` lengthens the checkpoints of its epochs."""
    epochs, steps = optimization.length(_steps_per_epoch(loader, training))
    return training if epochs is not None else at_even_steps(training, optimization, steps or 0)


def at_even_steps(
    training: TrainingConfig, optimization: OptimizationConfig, total_steps: int
) -> TrainingConfig:
    """Gives a training that counts steps as many checkpoints as its epochs would have.

    Args:
        training: The settings; ``ckpt_steps`` stays if it is set, as it does under ``num_steps``.
        optimization: The number of epochs.
        total_steps: All optimizer steps.

    Examples:
        >>> at_even_steps(TrainingConfig(), OptimizationConfig(num_epochs=3), 100).ckpt_steps
        34
        >>> twice = TrainingConfig(ckpt_frequency=2)
        >>> at_even_steps(twice, OptimizationConfig(num_epochs=3), 100).ckpt_steps
        17
    """
    given = training.ckpt_steps is not None or optimization.num_steps is not None
    if given or not training.ckpt_frequency:
        return training
    number = optimization.num_epochs * training.ckpt_frequency
    every = -(-total_steps * training.ckpt_epoch_frequency // number)
    return dataclasses.replace(training, ckpt_steps=max(every, 1))


def make_loader(
    task: Task[Any],
    encoded: Encoded | Mapping[str, Encoded],
    optimization: OptimizationConfig,
    training: TrainingConfig,
    *,
    num_widths: int = NUM_WIDTHS,
) -> TokenLoader:
    """The loader of a training; a step is compiled for each combination of its widths."""
    return task.make_loader(
        encoded,
        optimization.batch_size,
        seed=training.seed,
        num_widths=max(num_widths // training.gradient_accumulation_steps, 1),
        per_process=training.local_batches,
    )
