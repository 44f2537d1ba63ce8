"""The results of a run: ``results.json``, and hyperparameters and scores in its trackers."""

from collections.abc import Mapping
from typing import Any

from ..json_files import read_json
from ..run.results import (
    FORMAT,
    LinearBaseline,
    Results,
    Scores,
    TrainingResult,
    hyperparameters,
    own_scores,
    write_results,
)
from ..text import Task
from .config import Job
from .run_paths import RunPaths


def save_results(
    job: Job,
    task: Task[Any],
    run: RunPaths,
    rows: Mapping[str, Scores],
    training: TrainingResult,
    *,
    role: str,
    test_examples: int | Mapping[str, int] = 0,
    linear_baseline: LinearBaseline | None = None,
    is_tracked: bool = True,
) -> None:
    """Writes ``results.json`` and the card of each model with these results.

    Args:
        job: The job.
        task: Its task.
        run: The run.
        rows: The scores of every model that was scored.
        training: How the training went.
        role: The row of the run's own model.
        test_examples: The number of examples in ``data.test``; of several tasks, by their names.
        linear_baseline: The teacher beside a linear model, if that was checked.
        is_tracked: Whether the trackers get the hyperparameters and scores.
    """
    from ..export.card import directory_card, write_card
    from ..run.directory import MANIFEST, RunManifest, environment
    from ..run.trackers import TrackedRun
    from ..run.trackers import write_results as write_results_to_trackers

    versions = environment()
    versions["finished"] = versions.pop("started")
    config, settings = run.with_directories(job.config.training), job.config.to_dict()
    results = Results(
        format=FORMAT,
        role=role,
        task=task.name,
        main_metric=task.main_metric,
        larger_is_better=task.larger_is_better,
        rows=dict(rows),
        test=_tested(job, test_examples),
        training=training,
        settings=settings,
        environment=versions,
    )
    if linear_baseline is not None:
        results["linear_baseline"] = linear_baseline
    write_results(run.directory, results)
    for own in [run.of_task(name) for name in job.config.tasks] or [run]:
        if own.has_model:
            write_card(own.model, directory_card(own.model))
    if not is_tracked or (config.log_dir is None and not config.trackers):
        return
    name = read_json(run.directory / MANIFEST, RunManifest)["run"]
    write_results_to_trackers(
        config,
        TrackedRun(name, run.directory, config.log_dir),
        training["steps"],
        hyperparameters(settings),
        own_scores(rows, role),
    )


def _tested(job: Job, examples: int | Mapping[str, int]) -> dict[str, Any] | None:
    """The file with the test examples and their number; by task where the job has several."""
    if isinstance(examples, Mapping):
        tested = {name: _tested(own, examples.get(name, 0)) for name, own in job.of_tasks().items()}
        return {name: own for name, own in tested.items() if own is not None} or None
    return {"path": job.config.data.test, "examples": examples} if examples else None
