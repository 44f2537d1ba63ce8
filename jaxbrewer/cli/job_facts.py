"""What ``train`` and ``distill`` print before they start: rows of a table, from a job's parts."""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from ..errors import abbreviate
from ..registry import loss_and_parameters
from ..text import Encoded
from ..text.tasks import Texts
from .config import Job
from .job_data import StudentTokens
from .job_defaults import auto_distillation
from .overrides import flatten

if TYPE_CHECKING:
    from ..run.plan import Plan
    from ..text.training import TextTraining

Facts = list[tuple[str, Any]]
"""Rows of a table: a name and a value."""


def describe_origin(job: Job) -> str:
    """What the student starts from."""
    student = job.config.student
    if student.path is not None:
        return student.path
    if student.layers is not None:
        return f"layers {abbreviate(student.layers, 12)} of the teacher"
    return "random weights"


def describe_teachers(job: Job, teachers: Sequence[Any], describe: Callable[[Any], str]) -> Facts:
    """A row for each teacher, or for the columns of the files that hold what one said."""
    if not teachers:
        is_log = job.config.data.probabilities is None
        where = job.config.data.log_probabilities if is_log else job.config.data.probabilities
        columns = [where] if isinstance(where, str) else list((where or {}).values())
        kind = "log-probabilities" if is_log else "probabilities"
        named = f"column{'s' * (len(columns) > 1)} {abbreviate(columns)}"
        return [("teacher", f"from elsewhere: {kind} in the {named} of the files")]
    weights: list[float | None] = [teacher.weight for teacher in job.config.teachers] or [None]
    return [
        (
            name,
            f"{source.directory}: {describe(model)}"
            + ("" if weight is None else f", weight {weight:g}"),
        )
        for (name, source, model), weight in zip(teachers, weights, strict=True)
    ]


def describe_texts(
    data: DataConfig, labelled: Any | None, unlabelled: Any | None, test: Texts | None
) -> str:
    """How many texts there are of each kind."""
    parts = [] if labelled is None else [f"{len(labelled):,} labelled in {data.train}"]
    if unlabelled is not None:
        parts.append(f"{len(unlabelled):,} unlabelled in {data.unlabelled}")
    parts.append("no test" if test is None else f"{len(test.examples):,} to test on in {data.test}")
    return "; ".join(parts)


def cut_facts(encoded: Encoded, max_length: int) -> Facts:
    """The row about the training texts that are cut, if there are any.

    Args:
        encoded: The texts.
        max_length: The length at which they are cut.

    Examples:
        >>> ids = np.zeros(7, np.int32)
        >>> encoded = Encoded(ids, ids, np.array([0, 4, 7]), facts={"is_cut": np.array([1, 0])})
        >>> cut_facts(encoded, 4)
        [('cut', '1 of 2 texts, at data.max_length 4; 95 % have at most 4 tokens')]
    """
    cut = int(encoded.facts["is_cut"].sum()) if "is_cut" in encoded.facts else 0
    if not cut:
        return []
    longest = int(np.ceil(np.quantile(encoded.lengths, 0.95)))
    shown = f"{cut:,} of {len(encoded):,} texts, at data.max_length {max_length}"
    return [("cut", f"{shown}; 95 % have at most {longest} tokens")]


def tokenizer_facts(own: StudentTokens) -> Facts:
    """Whether the student reads other tokens than the teacher."""
    if own.encoded is None:
        return []
    return [("tokenizer", f"the student's own, {own.tokenizer.vocab_size:,} tokens")]


def validation_facts(job: Job, texts: Texts | None) -> Facts:
    """The row about the validation texts, if there are any."""
    if texts is None:
        return []
    count, choice = len(texts.examples), describe_choice(job.config.training)
    file = job.config.data.validation
    return [("validation", f"{count:,} texts of {file} at each checkpoint; {choice}")]


def describe_choice(config: TrainingConfig) -> str:
    """Which checkpoint becomes the saved model, and how patience ends the training."""
    ends = (
        "" if config.patience is None else f"; ends once {config.patience} in a row are no better"
    )
    return f"the best {config.best_metric} ({config.best_mode}) is kept{ends}"


def auto_facts(job: Job) -> Facts:
    """The row about the settings that the task gives, if the job leaves them to it."""
    if not job.is_auto:
        return []
    fields = flatten(auto_distillation(job.config.data))
    shown = ", ".join(f"{name} {value}" for name, value in fields.items())
    return [("distillation", f"auto: {shown}" if shown else "auto")]


def describe_losses(config: DistillationConfig) -> str:
    """The losses between logits and on labels, with their weights."""

    def weight(name: str) -> Any:
        scheduler = getattr(config, f"{name}_scheduler")
        return getattr(config, name) if scheduler == "none" else scheduler

    rule = config.temperature_scheduler
    temperature = f"temperature {config.temperature}" + ("" if rule == "none" else f", {rule}")
    loss, parameters = loss_and_parameters(config.kd_loss_type)
    named = "".join(f", {name} {value}" for name, value in parameters.items())
    return (
        f"logits {loss}{named} at {temperature}, weight {weight('kd_loss_weight')}; "
        f"labels, weight {weight('hard_label_weight')}"
    )


def training_facts(
    job: Job, training: "TextTraining", plan: "Plan", optimization: OptimizationConfig
) -> Facts:
    """The rows about batches, steps, optimizer and checkpoints."""
    config, loader, steps = job.config.training, training.loader, plan.total_steps
    groups = config.gradient_accumulation_steps
    epochs = "" if plan.num_epochs is None else f", in {plan.num_epochs} epochs"
    precision = (
        f"{config.half_dtype}, {config.fp16_opt_level}"
        if config.fp16 and config.fp16_opt_level != "O0"
        else "float32"
    )
    if config.teacher_products is not None:
        precision += f" (the teacher's products {config.teacher_products})"
    where = training.trainer.train_config.teacher_device
    if where is not None:
        precision += f", the teacher on {where if isinstance(where, str) else abbreviate(where)}"
    return [
        (
            "batches",
            f"{len(loader):,} of {optimization.batch_size} texts, "
            f"{abbreviate(loader.widths)} tokens wide, {precision}",
        ),
        (
            "steps",
            f"{steps:,}{epochs}" + (f", {groups} batches each" if groups > 1 else ""),
        ),
        optimizer_fact(optimization, steps),
        checkpoints_fact(plan, training.trainer.train_config),
        *(("logits", fact) for fact in plan.facts),
    ]


def optimizer_fact(optimization: OptimizationConfig, steps: int) -> tuple[str, str]:
    """The row about the optimizer."""
    clipped, warmup = optimization.max_grad_norm, round(optimization.warmup * steps)
    return (
        "optimizer",
        f"AdamW, learning rate {optimization.learning_rate} after {warmup:,} steps of "
        f"warm-up, then falling to 0; weight decay {optimization.weight_decay}; "
        + (f"gradients clipped at {clipped}" if clipped > 0 else "no clipping"),
    )


def checkpoints_fact(plan: "Plan", config: TrainingConfig) -> tuple[str, str]:
    """The row about the steps of the checkpoints, of which the last step is one if there are any.

    Args:
        plan: The length of the training.
        config: The settings that it runs with.
    """
    first = list(itertools.islice(plan.saved_steps(config), 7)) if config.ckpt_frequency else []
    if len(first) <= 6:
        return "checkpoints", f"after steps {abbreviate(first)}" if first else "none"
    shown = abbreviate([*first[:5], "...", plan.total_steps], 7)
    return "checkpoints", f"after steps {shown}"
