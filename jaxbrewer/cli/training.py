"""``jaxbrewer train`` and ``jaxbrewer distill``, with their ``--dry-run``."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import abbreviate
from ..models.model_directory import read_text_model
from ..run.results import LinearBaseline, Scores
from ..text import Task, Tokenizer, task_of
from ..text.model import check_fits
from ..text.tasks import Head, Predictions, Texts
from ..text.tasks.label_loss import describe_label_loss
from .config import Job
from .fitting import fit, validation_of
from .job_data import outside_predictions, read_held_out, read_student_tokens
from .job_facts import (
    Facts,
    auto_facts,
    cut_facts,
    describe_losses,
    describe_origin,
    describe_teachers,
    describe_texts,
    tokenizer_facts,
    training_facts,
    validation_facts,
)
from .messages import report_wait
from .output import print_checked, print_facts, print_line, print_note
from .preparation import (
    Baseline,
    PreparedDistillation,
    prepare_baseline,
    prepare_distillation,
    print_untrained,
    require_baseline,
)
from .results import save_results
from .run_paths import (
    refuse_tasks,
    require_writable_students,
    student_run,
    student_runs,
    teacher_run,
)
from .scoring import score_and_print
from .several_tasks import distill_tasks
from .teacher_check import check_teacher

if TYPE_CHECKING:
    from ..models import TransformerModel
    from ..run.plan import Plan
    from ..text.evaluation import ScoredModel
    from ..text.training import TextTraining

Scored: TypeAlias = (
    "tuple[TransformerModel | Predictions, Path | None, tuple[str, ...], Texts | None]"
)
"""A model or what it predicts, its directory, the names of its outputs, texts in its tokens."""


def train(job: Job, *, dry_run: bool = False, is_first: bool = True) -> None:
    """Fine-tunes the teacher on labels and saves it.

    Args:
        job: The job.
        dry_run: Whether to stop after all checks.
        is_first: Whether this process, of several, is the one that saves.
    """
    refuse_tasks(job)
    config, data = job.config, job.config.data
    task, run = task_of(data), teacher_run(config.training)
    source = read_text_model(job.need("teacher.path", "the directory of the model to train"))
    if is_first:  # the others may find the run that it has started
        run.require_writable(config.training, used=source.directory, dry_run=dry_run)
    report_wait("reading the texts")
    examples = task.read(str(job.need("data.train", "the file with the labelled texts")))
    head = task.head_to_train(source, examples)
    examples, tokenizer = task.with_head(examples, head), Tokenizer(source.directory)
    task = task.for_training(examples, head)
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
        _check_student(job, task, teacher, head, tokenizer, texts)
        training = make_fine_tuning(
            task,
            job_models.freeze_parts(teacher, config.teacher.frozen, "teacher.frozen"),
            texts.encoded,
            config.teacher.optimization,
            run.with_directories(config.training),
        )
        report_wait("tracing the first step")
        validation = validation_of(task, held_out)
        plan = training.check(validation)
        facts: Facts = [
            (
                "teacher",
                f"{source.directory}: {job_models.describe(teacher)}, "
                + ("new head" if head.is_new else "its own head"),
            ),
            *([("settings", json.dumps(settings))] if settings else []),
            ("frozen", abbreviate(config.teacher.frozen) or "nothing"),
            ("texts", describe_texts(data, examples, None, held_out.test)),
            *cut_facts(texts.encoded, data.max_length),
            *task.describe(examples),
            *describe_label_loss(task.label_loss, head.names),
            *validation_facts(job, held_out.validation),
            *training_facts(job, training, plan, config.teacher.optimization),
            ("devices", job_models.devices()),
            ("output", run.directory),
        ]
        print_facts(facts, is_result=dry_run)
        if dry_run:
            return print_checked([run.refusal(config.training)])
        if is_first:
            run.remove_model(config.training)
        outcome = fit(job, training, plan, validation)
        if not is_first:
            return None
        job_models.save(teacher, tokenizer, run.model, data)
        models: dict[str, Scored] = {"teacher": (teacher, run.model, head.names, held_out.test)}
        rows, _ = _score(job, task, models)
        linear = check_teacher(job, task, teacher, texts.examples, held_out, tokenizer)
        count = 0 if held_out.test is None else len(held_out.test.examples)
        save_results(
            job, task, run, rows, outcome,
            role="teacher", test_examples=count, linear_baseline=linear,
        )  # fmt: skip
    return print_line(f"The teacher is saved in {run.model}.")


def _check_student(
    job: Job,
    task: Task[Any],
    teacher: "TransformerModel",
    head: Head,
    tokenizer: Tokenizer,
    texts: Texts,
) -> None:
    """Raises the errors of the job's student before its teacher is trained."""
    from . import job_models

    config = job.config
    tokens = read_student_tokens(job, task, tokenizer, texts)
    student = job_models.check_student(task, config.student, teacher, head, tokens.tokenizer)
    if student is not None:
        encoded = texts.encoded if tokens.encoded is None else tokens.encoded
        check_fits("student", student.config, tokens.tokenizer, config.data, [encoded])


def distill(
    job: Job, *, dry_run: bool = False, is_first: bool = True, baseline: bool = False
) -> None:
    """Distils the teachers into a student and saves it; takes the arguments of ``train``.

    Args:
        job: The job.
        dry_run: Whether to stop after all checks.
        is_first: Whether this process, of several, is the one that saves.
        baseline: Whether to train the same student on labels alone beside it.
    """
    config, run = job.config, student_run(job.config.training)
    if config.tasks:
        return distill_tasks(job, dry_run=dry_run, is_first=is_first, baseline=baseline)
    if baseline:
        require_baseline(job)
    if is_first:  # the others may find the run that it has started
        require_writable_students(job, baseline=baseline, dry_run=dry_run)
    prepared = prepare_distillation(job, needs_teacher=not dry_run)

    from ..devices.mesh import on_device
    from . import job_models

    with on_device(config.training):
        report_wait("tracing the first step")
        training, task, held_out = prepared.training, prepared.task, prepared.held_out
        validation = validation_of(task, held_out)
        plan = training.check(validation)
        beside = prepare_baseline(job, prepared, plan, validation) if baseline else None
        print_facts(_facts_of(job, prepared, plan, beside), is_result=dry_run)
        if dry_run:
            runs = student_runs(job, baseline=baseline)
            print_checked(own.refusal(config.training) for own in runs)
            return print_untrained(job, prepared)
        if is_first:
            run.remove_model(config.training)
        linear = _check_teachers(job, prepared) if is_first else None
        if config.distillation.is_caching_logits:
            print_note(f"The teacher reads {len(prepared.texts.encoded):,} texts once.")
        outcome = fit(job, training, plan, validation)
        names, test = prepared.head.names, held_out.test
        tokenizer, test_of_teachers = prepared.student_tokens.tokenizer, prepared.test_of_teachers
        teachers: dict[str, Scored] = {
            teacher.name: (teacher.model, teacher.source.directory, names, test_of_teachers)
            for teacher in prepared.teachers
        }
        outside = test and outside_predictions(config.data, str(config.data.test), names)
        if outside:
            teachers["teacher"] = outside, None, names, test
        student: dict[str, Scored] = {"student": (prepared.student, run.model, names, test)}
        count = 0 if test is None else len(test.examples)
        if is_first:
            job_models.save(prepared.student, tokenizer, run.model, config.data)
            rows, scored = _score(job, task, {**teachers, **student})
            save_results(
                job, task, run, rows, outcome,
                role="student", test_examples=count, linear_baseline=linear,
            )  # fmt: skip
            print_line(f"The student is saved in {run.model}.")
        if beside is not None:
            if is_first:
                beside.run.remove_model(config.training)
            print_note("The baseline: the same student on labels alone.")
            outcome_beside = fit(job, beside.training, beside.plan, validation)
            if is_first:
                job_models.save(beside.student, tokenizer, beside.run.model, config.data)
                own: Scored = (beside.student, beside.run.model, names, test)
                rows, _ = _score(job, task, {**teachers, "baseline": own, **student}, scored)
                save_results(
                    job, task, run, rows, outcome,
                    role="student", test_examples=count, linear_baseline=linear, is_tracked=False,
                )  # fmt: skip
                save_results(
                    job, task, beside.run, rows, outcome_beside,
                    role="baseline", test_examples=count,
                )  # fmt: skip
                print_line(f"The baseline is saved in {beside.run.model}.")
    return None


def _check_teachers(job: Job, prepared: PreparedDistillation) -> LinearBaseline | None:
    """Compares a single teacher with a linear model before its distillation."""
    if len(prepared.teachers) != 1:
        return None
    [teacher], data = prepared.teachers, prepared.data
    return check_teacher(
        job, prepared.task, teacher.model, data.labelled, prepared.held_out, data.tokenizer
    )


def _facts_of(
    job: Job,
    prepared: PreparedDistillation,
    plan: "Plan",
    beside: "Baseline[TextTraining, TransformerModel] | None",
) -> Facts:
    """The rows that ``distill`` prints before it starts."""
    from . import job_models

    config, data, task = job.config, prepared.data, prepared.task
    models, student = [teacher.model for teacher in prepared.teachers], prepared.student
    matches, cache_dir = config.distillation.intermediate_matches, config.training.cache_dir
    test = prepared.held_out.test
    return [
        *describe_teachers(job, prepared.teachers, job_models.describe),
        ("student", f"{describe_origin(job)}: {job_models.describe(student)}"),
        *([("frozen", abbreviate(frozen))] if (frozen := config.student.frozen) else []),
        ("texts", describe_texts(config.data, data.labelled, data.unlabelled, test)),
        *cut_facts(data.texts.encoded, config.data.max_length),
        *task.describe(data.described),
        *describe_label_loss(task.label_loss, prepared.head.names),
        *tokenizer_facts(prepared.student_tokens),
        *validation_facts(job, prepared.held_out.validation),
        *auto_facts(job),
        ("losses", describe_losses(config.distillation)),
        *(
            (
                "match",
                job_models.describe_match(
                    match, task, prepared.training, models[match.teacher], student
                ),
            )
            for match in matches
        ),
        *training_facts(job, prepared.training, plan, config.student.optimization),
        *([("teacher's cache", cache_dir)] if cache_dir else []),
        *(
            []
            if beside is None
            else [
                (
                    "baseline",
                    f"the same student on the labels of {config.data.train} alone, "
                    f"{beside.plan.total_steps:,} steps, in {beside.run.directory}",
                )
            ]
        ),
        ("devices", job_models.devices()),
        ("output", student_run(config.training).directory),
    ]


def _score(
    job: Job,
    task: Task[Any],
    models: "Mapping[str, Scored]",
    scored: "Mapping[str, ScoredModel]" = MappingProxyType({}),
) -> "tuple[dict[str, Scores], dict[str, ScoredModel]]":
    """Scores models on the test texts, if there are any, and prints the table."""
    from ..text.evaluation import ModelToScore

    to_score = {
        name: ModelToScore(model, directory, test, names)
        for name, (model, directory, names, test) in models.items()
        if test is not None
    }
    return score_and_print(task, to_score, file=str(job.config.data.test), scored=scored)
