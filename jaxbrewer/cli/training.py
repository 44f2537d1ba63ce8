"""``jaxbrewer train`` and ``jaxbrewer distill``, with their ``--dry-run``."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from ..errors import UsageError, abbreviate
from ..models.model_directory import ModelDirectory, read_text_model
from ..registry import loss_and_parameters
from ..run.results import TrainingResult
from ..text import Task, Tokenizer, task_of
from ..text.model import check_fits
from ..text.tasks import Head, Texts
from .config import Job
from .job_data import (
    HeldOut,
    StudentTokens,
    read_distillation_texts,
    read_held_out,
    read_student_tokens,
    require_matching_cache,
)
from .messages import report_wait
from .output import print_line, print_table
from .results import save_results
from .run_paths import RunPaths, find_teacher, student_run, teacher_run
from .score_table import print_evaluation

if TYPE_CHECKING:
    from ..models import TransformerModel
    from ..run.plan import Plan
    from ..text.training import TextTraining
    from ..text.validation import Validation

Facts = list[tuple[str, Any]]
"""Rows of a table: a name and a value."""


def train(job: Job, *, dry_run: bool = False, is_first: bool = True) -> None:
    """Fine-tunes the teacher on labels and saves it.

    Args:
        job: The job.
        dry_run: Whether to stop after all checks.
        is_first: Whether this process, of several, is the one that saves.
    """
    config, data = job.config, job.config.data
    task, run = task_of(data), teacher_run(config.training)
    source = read_text_model(job.need("teacher.path", "the directory of the model to train"))
    if is_first:  # the others may find the run that it has started
        run.require_writable(config.training, used=source.directory)
    report_wait("reading the texts")
    examples = task.read(str(job.need("data.train", "the file with the labelled texts")))
    head = task.head_to_train(source, examples)
    examples, tokenizer = task.with_head(examples, head), Tokenizer(source.directory)
    texts = Texts(examples, task.encode(tokenizer, examples))
    held_out = read_held_out(job, task, head, tokenizer)

    report_wait("loading JAX and the model")
    from ..devices.mesh import on_device
    from ..text.training import make_fine_tuning
    from . import job_models

    with on_device(config.training):
        settings, seed = config.teacher.settings, config.training.seed
        teacher = job_models.load(task, source, head, settings=settings, seed=seed)
        check_fits("teacher", teacher.config, tokenizer, data, [texts.encoded])
        training = make_fine_tuning(
            task,
            teacher,
            texts.encoded,
            config.teacher.optimization,
            run.with_directories(config.training),
            frozen=tuple(config.teacher.frozen),
        )
        report_wait("tracing the first step")
        validation = _validation(task, held_out)
        plan = training.check(validation)
        facts: Facts = [
            (
                "teacher",
                f"{source.directory}: {job_models.describe(teacher)}, "
                + ("new head" if head.is_new else "its own head"),
            ),
            *([("settings", json.dumps(settings))] if settings else []),
            ("frozen", abbreviate(config.teacher.frozen) or "nothing"),
            ("texts", _describe_texts(data, examples, None, held_out.test)),
            *task.describe(examples),
            *_validation_facts(job, held_out.validation),
            *_training_facts(job, training, plan, config.teacher.optimization),
            ("devices", job_models.devices()),
            ("output", run.directory),
        ]
        print_table(facts)
        if dry_run:
            return print_line("All checks passed. Nothing was trained or written.")
        if is_first:
            run.remove_model(config.training)
        outcome = _fit(job, training, plan, validation)
        if not is_first:
            return None
        job_models.save(teacher, tokenizer, run.model, data)
        scored = {"teacher": (teacher, run.model, head.names)}
        _score_and_save(job, task, run, scored, {"teacher": held_out.test}, outcome)
    return print_line(f"The teacher is saved in {run.model}.")


class PreparedDistillation(NamedTuple):
    """A distillation that is ready to run, with its models and texts."""

    task: Task[Any]
    training: "TextTraining"
    teacher: "TransformerModel"
    student: "TransformerModel"
    source: ModelDirectory
    tokenizer: Tokenizer
    head: Head
    labelled: Any | None
    unlabelled: Any | None
    held_out: HeldOut
    texts: Texts
    student_tokens: StudentTokens


def prepare_distillation(job: Job) -> PreparedDistillation:
    """Reads the texts of a job and loads both models.

    Raises:
        UsageError: The job is incomplete, or its parts do not fit each other.
    """
    config, data = job.config, job.config.data
    task, source = task_of(data), find_teacher(job)
    _require_student(job)
    task.require_losses(config.distillation)
    report_wait("reading the texts")
    labelled, unlabelled, head, tokenizer, texts = read_distillation_texts(job, task, source)
    student_tokens = read_student_tokens(job, task, tokenizer, texts)
    own_tokenizer = student_tokens.tokenizer
    held_out = read_held_out(job, task, head, student_tokens.tokenizer)
    require_matching_cache(job, source.directory, texts.encoded)

    report_wait("loading JAX and the models")
    from ..devices.mesh import on_device
    from ..text.training import make_distillation
    from . import job_models

    with on_device(config.training):
        teacher = job_models.load(task, source, head)
        student = job_models.make_student(
            task, config.student, teacher, head, own_tokenizer, seed=config.training.seed
        )
        check_fits("teacher", teacher.config, tokenizer, data, [texts.encoded])
        encoded = texts.encoded if student_tokens.encoded is None else student_tokens.encoded
        check_fits("student", student.config, own_tokenizer, data, [encoded])
        training = make_distillation(
            task,
            teacher,
            student,
            texts.encoded,
            config.distillation,
            config.student.optimization,
            student_run(config.training).with_directories(config.training),
            student_encoded=student_tokens.encoded,
        )
    return PreparedDistillation(
        task,
        training,
        teacher,
        student,
        source,
        tokenizer,
        head,
        labelled,
        unlabelled,
        held_out,
        texts,
        student_tokens,
    )


def distill(job: Job, *, dry_run: bool = False, is_first: bool = True) -> None:
    """Distils the teacher into a student and saves it; takes the arguments of ``train``."""
    config, data = job.config, job.config.data
    run = student_run(config.training)
    if is_first:  # the others may find the run that it has started
        run.require_writable(config.training, used=_optional_path(config.student.path))
    prepared = prepare_distillation(job)
    training, teacher, student = prepared.training, prepared.teacher, prepared.student
    source, texts, student_tokens = prepared.source, prepared.texts, prepared.student_tokens
    task, held_out, names = prepared.task, prepared.held_out, prepared.head.names

    from ..devices.mesh import on_device
    from . import job_models

    with on_device(config.training):
        report_wait("tracing the first step")
        validation = _validation(task, held_out)
        plan = training.check(validation)
        matches, cache_dir = config.distillation.intermediate_matches, config.training.cache_dir
        facts: Facts = [
            ("teacher", f"{source.directory}: {job_models.describe(teacher)}"),
            ("student", f"{_describe_origin(job)}: {job_models.describe(student)}"),
            ("texts", _describe_texts(data, prepared.labelled, prepared.unlabelled, held_out.test)),
            *(task.describe(prepared.labelled) if prepared.labelled is not None else []),
            *_tokenizer_facts(prepared),
            *_validation_facts(job, held_out.validation),
            ("losses", _describe_losses(config.distillation)),
            *(
                ("match", job_models.describe_match(match, task, training, teacher, student))
                for match in matches
            ),
            *_training_facts(job, training, plan, config.student.optimization),
            *([("teacher's cache", cache_dir)] if cache_dir else []),
            ("devices", job_models.devices()),
            ("output", run.directory),
        ]
        print_table(facts)
        if dry_run:
            return print_line("All checks passed. Nothing was trained or written.")
        if is_first:
            run.remove_model(config.training)
        if config.distillation.is_caching_logits:
            print_line(f"The teacher reads {len(texts.examples):,} texts once.")
        outcome = _fit(job, training, plan, validation)
        if not is_first:
            return None
        job_models.save(student, student_tokens.tokenizer, run.model, data)
        scored = {
            "teacher": (teacher, source.directory, names),
            "student": (student, run.model, names),
        }
        tests = {"teacher": _test_of_teacher(prepared), "student": held_out.test}
        _score_and_save(job, task, run, scored, tests, outcome)
    return print_line(f"The student is saved in {run.model}.")


def _tokenizer_facts(prepared: PreparedDistillation) -> Facts:
    """Whether the student reads other tokens than the teacher."""
    own = prepared.student_tokens
    if own.encoded is None:
        return []
    return [("tokenizer", f"the student's own, {own.tokenizer.vocab_size:,} tokens")]


def _test_of_teacher(prepared: PreparedDistillation) -> Texts | None:
    """The test texts in the teacher's tokens."""
    test = prepared.held_out.test
    if test is None or prepared.student_tokens.encoded is None:
        return test
    return Texts(test.examples, prepared.task.encode(prepared.tokenizer, test.examples))


def _validation(task: Task[Any], held_out: HeldOut) -> "Validation | None":
    """The callback that scores each checkpoint."""
    from ..text.validation import Validation

    texts = held_out.validation
    return None if texts is None else Validation(task, texts.examples, texts.encoded)


def _fit(
    job: Job, training: "TextTraining", plan: "Plan", validation: "Validation | None"
) -> TrainingResult:
    """Trains, and takes the best checkpoint where there are validation texts."""
    from ..run.load_student import best_step, scores_of

    config = training.trainer.train_config
    steps = training.train(validation).history.get("step", np.zeros(0))
    outcome = TrainingResult(
        steps=int(steps.max(initial=0)),
        planned_steps=plan.total_steps,
        best_step=None,
        validation=[],
    )
    if outcome["steps"] < plan.total_steps:
        print_line(
            f"The training stopped after step {outcome['steps']:,} of {plan.total_steps:,}: the "
            f"last {config.patience} checkpoints are no better than an earlier one."
        )
    if validation is None:
        return outcome
    directory, metric = str(config.output_dir), str(config.best_metric)
    best, scores = best_step(directory, config), scores_of(directory)
    if best != outcome["steps"]:
        training.trainer.restore(best)
    value = next(row[metric] for row in scores if row["step"] == best)
    print_line(
        f"The best of {len(scores):,} checkpoints is that of step {best:,}: {metric} {value:.4f} "
        f"on {job.config.data.validation}."
    )
    return {**outcome, "best_step": best, "validation": scores}


def _score_and_save(
    job: Job,
    task: Task[Any],
    run: RunPaths,
    models: "Mapping[str, tuple[TransformerModel, Path, tuple[str, ...]]]",
    tests: Mapping[str, Texts | None],
    training: TrainingResult,
) -> None:
    """Scores models on the test texts, prints the table, and writes the results of the run.

    The last model is that of the run. Each has the test texts in its own tokens.
    """
    from ..text.evaluation import ModelToScore, evaluation_of

    role, rows = list(models)[-1], {}
    scored = {
        name: ModelToScore(model, directory, texts, names)
        for name, (model, directory, names) in models.items()
        if (texts := tests[name]) is not None
    }
    if scored:
        evaluation = evaluation_of(task, scored, report=report_wait)
        print_evaluation(evaluation, file=str(job.config.data.test))
        rows = evaluation["rows"]
    count = len(scored[role].texts.examples) if scored else 0
    save_results(job, task, run, rows, training, role=role, test_examples=count)


def _require_student(job: Job) -> None:
    student = job.config.student
    if (student.path, student.layers, student.size) == (None, None, None):
        raise UsageError(
            f"{job.path} has no student: give one of student.path (a directory), student.layers "
            "(of the teacher, such as [0, 2, 4]) and student.size (such as {num_hidden_layers: 2})."
        )


def _optional_path(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def _describe_origin(job: Job) -> str:
    student = job.config.student
    if student.path is not None:
        return student.path
    if student.layers is not None:
        return f"layers {abbreviate(student.layers, 12)} of the teacher"
    return "random weights"


def _describe_texts(
    data: DataConfig, labelled: Any | None, unlabelled: Any | None, test: Texts | None
) -> str:
    parts = []
    if labelled is not None:
        parts.append(f"{len(labelled):,} labelled in {data.train}")
    if unlabelled is not None:
        parts.append(f"{len(unlabelled):,} unlabelled in {data.unlabelled}")
    parts.append("no test" if test is None else f"{len(test.examples):,} to test on in {data.test}")
    return "; ".join(parts)


def _validation_facts(job: Job, texts: Texts | None) -> Facts:
    config = job.config.training
    if texts is None:
        return []
    ends = "" if config.patience is None else f"; ends after {config.patience} no better ones"
    return [
        (
            "validation",
            f"{len(texts.examples):,} texts of {job.config.data.validation} at each checkpoint; "
            f"the best {config.best_metric} ({config.best_mode}) is kept{ends}",
        )
    ]


def _describe_losses(config: DistillationConfig) -> str:
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


def _training_facts(
    job: Job, training: "TextTraining", plan: "Plan", optimization: OptimizationConfig
) -> Facts:
    """The rows about batches, steps, optimizer and checkpoints."""
    config, loader, steps = job.config.training, training.loader, plan.total_steps
    groups = config.gradient_accumulation_steps
    epochs = "" if plan.num_epochs is None else f", in {plan.num_epochs} epochs"
    clipped, warmup = optimization.max_grad_norm, round(optimization.warmup * steps)
    precision = (
        f"{config.half_dtype}, {config.fp16_opt_level}"
        if config.fp16 and config.fp16_opt_level != "O0"
        else "float32"
    )
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
        (
            "optimizer",
            f"AdamW, learning rate {optimization.learning_rate} after {warmup:,} steps of "
            f"warm-up, then falling to 0; weight decay {optimization.weight_decay}; "
            + (f"gradients clipped at {clipped}" if clipped > 0 else "no clipping"),
        ),
        ("checkpoints", _describe_checkpoints(plan, config)),
        *(("logits", fact) for fact in plan.facts),
    ]


def _describe_checkpoints(plan: "Plan", config: TrainingConfig) -> str:
    """The steps of the checkpoints; the last step is one of them, if there are any."""
    first = list(itertools.islice(plan.saved_steps(config), 7)) if config.ckpt_frequency else []
    if len(first) <= 6:
        return f"after steps {abbreviate(first)}" if first else "none"
    return f"after steps {abbreviate([*first[:5], '...', plan.total_steps], 7)}"
