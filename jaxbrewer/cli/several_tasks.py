"""``jaxbrewer distill`` for a job with several tasks: one student with a head for each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..run.results import Scores
from .config import Job
from .fitting import fit, validation_of_tasks
from .job_facts import (
    Facts,
    checkpoints_fact,
    describe_choice,
    describe_losses,
    describe_origin,
    describe_texts,
    optimizer_fact,
)
from .messages import report_wait
from .output import print_checked, print_facts, print_line, print_note
from .results import save_results
from .run_paths import RunPaths, require_writable_students, student_run, student_runs
from .scoring import score_and_print
from .task_preparation import (
    PreparedTasks,
    TasksBaseline,
    prepare_tasks,
    prepare_tasks_baseline,
    require_only_tasks,
)

if TYPE_CHECKING:
    from ..models.shared_encoder import SharedEncoder
    from ..run.plan import Plan
    from ..text.evaluation import ScoredModel


def distill_tasks(
    job: Job, *, dry_run: bool = False, is_first: bool = True, baseline: bool = False
) -> None:
    """Distils the teachers of all tasks into one student and saves a model for each task.

    Args:
        job: The job.
        dry_run: Whether to stop after all checks.
        is_first: Whether this process, of several, is the one that saves.
        baseline: Whether to train the same student on labels alone beside it.

    Raises:
        UsageError: The job is incomplete, or its parts do not fit each other.
    """
    config, run = job.config, student_run(job.config.training)
    require_only_tasks(job, baseline=baseline)
    if is_first:
        require_writable_students(job, baseline=baseline, dry_run=dry_run)
    prepared = prepare_tasks(job)

    from ..devices.mesh import on_device

    with on_device(config.training):
        report_wait("tracing the first step")
        validation = validation_of_tasks(
            {name: (own.task, own.held_out) for name, own in prepared.tasks.items()}
        )
        plan = prepared.training.check(validation)
        beside = prepare_tasks_baseline(job, prepared, plan, validation) if baseline else None
        print_facts(_facts_of(job, prepared, plan, beside), is_result=dry_run)
        if dry_run:
            runs = student_runs(job, baseline=baseline)
            return print_checked(own.refusal(config.training) for own in runs)
        if is_first:
            run.remove_model(config.training)
        outcome = fit(job, prepared.training, plan, validation)
        task = next(iter(prepared.tasks.values())).task
        counts = {
            name: len(own.held_out.test.examples)
            for name, own in prepared.tasks.items()
            if own.held_out.test is not None
        }
        if is_first:
            _save(prepared, prepared.student, run)
            rows, scored = _score(prepared, run)
            save_results(job, task, run, rows, outcome, role="student", test_examples=counts)
            print_line(f"The students are saved in {run.model}: {', '.join(prepared.tasks)}.")
        if beside is not None:
            if is_first:
                beside.run.remove_model(config.training)
            print_note("The baseline: the same student on labels alone.")
            outcome_beside = fit(job, beside.training, beside.plan, validation)
            if is_first:
                _save(prepared, beside.student, beside.run)
                rows, _ = _score(prepared, run, beside, scored)
                save_results(
                    job, task, run, rows, outcome,
                    role="student", test_examples=counts, is_tracked=False,
                )  # fmt: skip
                save_results(
                    job, task, beside.run, rows, outcome_beside,
                    role="baseline", test_examples=counts,
                )  # fmt: skip
                print_line(f"The baselines are saved in {beside.run.model}.")
    return None


def _facts_of(
    job: Job, prepared: PreparedTasks, plan: "Plan", beside: "TasksBaseline | None"
) -> Facts:
    """The rows that the command prints before it starts."""
    from . import job_models

    config, facts, steps = job.config, Facts(), plan.total_steps
    is_validated = any(own.held_out.validation is not None for own in prepared.tasks.values())
    for name, own in prepared.tasks.items():
        data, distillation = own.data, own.job.config.distillation
        described = job_models.describe(prepared.teachers[name])
        texts = describe_texts(own.task.data, data.labelled, data.unlabelled, own.held_out.test)
        facts += [
            ("task", f"{name}: {own.task.name}"),
            ("  teacher", f"{own.source.directory}: {described}"),
            ("  texts", texts),
            *((f"  {fact}", value) for fact, value in own.task.describe(data.described)),
            ("  losses", describe_losses(distillation)),
        ]
        if (validation := own.held_out.validation) is not None:
            file = own.job.config.data.validation
            facts.append(("  validation", f"{len(validation.examples):,} texts of {file}"))
    one = next(iter(prepared.student.models.values()))
    return [
        *facts,
        ("student", f"{describe_origin(job)}: {job_models.describe(one)}, a head for each task"),
        ("steps", f"{steps:,}, their tasks drawn by numbers of examples"),
        optimizer_fact(config.student.optimization, steps),
        checkpoints_fact(plan, prepared.training.trainer.train_config),
        *([("validation", describe_choice(config.training))] if is_validated else []),
        *(
            []
            if beside is None
            else [
                (
                    "baseline",
                    f"the same student on the labels of all tasks alone, "
                    f"{beside.plan.total_steps:,} steps, in {beside.run.directory}",
                )
            ]
        ),
        ("devices", job_models.devices()),
        ("output", student_run(config.training).directory),
    ]


def _save(prepared: PreparedTasks, student: "SharedEncoder", run: RunPaths) -> None:
    """Saves the model of each task."""
    from . import job_models

    for name, own in prepared.tasks.items():
        model, directory = student.models[name], run.of_task(name).model
        job_models.save(model, own.data.tokenizer, directory, own.task.data)


def _score(
    prepared: PreparedTasks,
    run: RunPaths,
    beside: "TasksBaseline | None" = None,
    scored: "Mapping[str, Mapping[str, ScoredModel]]" = MappingProxyType({}),
) -> "tuple[dict[str, Scores], dict[str, Mapping[str, ScoredModel]]]":
    """Scores the models of each task that has test texts.

    Returns:
        The rows ``<task>/<model>``, and by task what :func:`score_and_print` returns for a later
        call.
    """
    from ..text.evaluation import ModelToScore

    rows: dict[str, Scores] = {}
    found: dict[str, Mapping[str, ScoredModel]] = {}
    students = {} if beside is None else {"baseline": (beside.student, beside.run)}
    students["student"] = prepared.student, run
    for name, own in prepared.tasks.items():
        test, names = own.held_out.test, own.data.head.names
        if test is None:
            continue
        models = {
            "teacher": ModelToScore(prepared.teachers[name], own.source.directory, test, names)
        }
        for row, (student, where) in students.items():
            directory = where.of_task(name).model
            models[row] = ModelToScore(student.models[name], directory, test, names)
        print_line(f"{name}:")
        file = str(own.task.data.test)
        of_task, found[name] = score_and_print(
            own.task, models, file=file, scored=scored.get(name, {})
        )
        rows |= {f"{name}/{row}": scores for row, scores in of_task.items()}
    return rows, found
