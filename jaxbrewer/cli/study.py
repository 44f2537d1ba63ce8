"""``jaxbrewer study``: whether distillation pays on the data of a job, over several seeds."""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..configs import DistillationConfig
from ..errors import UsageError, reason_of
from ..json_files import read_json, replace_file, write_json
from ..run.results import RESULTS, Numbers, Scores, read_results
from ..study.arms import LABELS, Arm, arms_of, choose_arms
from ..study.results import FORMAT, SETTINGS, ArmResult, Comparison, StudyResults, write_study
from ..text import Task
from ..text.rows import read_rows
from .config import Job
from .messages import report_wait
from .output import print_facts, print_line, print_note, print_table
from .preparation import PreparedDistillation, prepare_baseline, prepare_distillation
from .results import save_results
from .run_paths import RunPaths, baseline_run, find_teacher, refuse_tasks, student_run

if TYPE_CHECKING:
    from ..text.tasks import Predictions

PREDICTIONS = "predictions.safetensors"


class StudyOptions(NamedTuple):
    """What a study runs.

    Attributes:
        seeds: Number of seeds of each arm.
        temperatures: Further temperatures.
        label_counts: Numbers of labelled examples for a learning curve.
        resamplings: Number of bootstrap samples.
        arms: Names of the arms beside those of labels alone; ``None`` for all.
    """

    seeds: int = 3
    temperatures: Sequence[float] = ()
    label_counts: Sequence[int] = ()
    resamplings: int = 1000
    arms: Sequence[str] | None = None


def study(job: Job, options: StudyOptions, *, dry_run: bool = False) -> None:
    """Trains every arm with every seed, compares the arms, and writes ``study.json``.

    A run that has finished is not repeated; one that was interrupted is resumed.

    Raises:
        UsageError: The job is incomplete or does not fit, or the study was begun with others.
    """
    _require_study(job, options)
    config = job.config
    root = Path(str(config.training.output_dir)) / "study"
    every_arm = arms_of(
        config.distillation,
        has_unlabelled=config.data.unlabelled is not None,
        temperatures=options.temperatures,
        label_counts=options.label_counts,
    )
    arms = choose_arms(every_arm, options.arms)
    teacher = str(find_teacher(job).directory)
    job = _changed(job, teacher=dataclasses.replace(config.teacher, path=teacher))
    report_wait("reading the texts and loading the models")
    prepared = prepare_distillation(_job_of(job, root, every_arm[-1], 0, None))
    if config.distillation.is_caching_logits:
        from ..text.training import require_width_of_cache

        remedy = "leave out distillation.is_caching_logits"
        require_width_of_cache(config.distillation, prepared.training.loader, remedy)
    steps = _steps_of(job, prepared)
    extra = _steps_of_teacher(prepared)
    print_facts(
        [
            ("teacher", teacher),
            ("arms", len(arms)),
            ("runs", f"{len(arms) * options.seeds}, {options.seeds} seeds of each arm"),
            ("steps", f"{steps:,} of each; {steps + extra:,} at equal compute"),
            ("output", root),
        ],
        is_result=dry_run,
    )
    if dry_run:
        return print_line("All checks passed. Nothing was trained or written.")
    _require_same_study(root, job, options)
    longest_last = sorted(arms, key=lambda arm: arm.has_equal_compute)
    try:
        for seed, arm in itertools.product(range(options.seeds), longest_last):
            count = steps + (extra if arm.has_equal_compute else 0)
            _run(_job_of(job, root, arm, seed, count), arm, count, root)
    except KeyboardInterrupt:
        print_note("The same command continues the study; finished runs are not repeated.")
        raise
    report_wait("comparing the arms")
    compared = _compare(prepared, arms, root, options)
    print_study(_save(root, job, arms, options, compared))
    return print_line(f"The study is in {root}.")


def _require_study(job: Job, options: StudyOptions) -> None:
    """Refuses what a study cannot do, before anything is read."""
    data = job.config.data
    refuse_tasks(job)
    job.need("data.train", "the file with the labelled texts")
    job.need("data.test", "the file with the texts that score the students")
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {options.seeds}.")
    if job.config.training.cache_dir is not None:
        raise UsageError(
            "A study has caches of its own: leave out training.cache_dir, and set "
            "distillation.is_caching_logits."
        )
    if job.config.teachers or data.probabilities or data.log_probabilities:
        raise UsageError("A study needs one teacher model: give teacher.path.")
    for count in options.label_counts:
        if count < 1:
            raise UsageError(f"--labels must be at least 1, got {count}.")


def _changed(job: Job, **sections: Any) -> Job:
    return job._replace(config=dataclasses.replace(job.config, **sections))


def _job_of(job: Job, root: Path, arm: Arm, seed: int, steps: int | None) -> Job:
    """The job of one run: the arm's data and losses, the seed, the number of steps."""
    config, data = job.config, job.config.data
    training = dataclasses.replace(
        config.training,
        output_dir=str(root / arm.name / f"seed-{seed}"),
        seed=config.training.seed + seed,
        resume=True,
        overwrite=False,
    )
    if not arm.is_on_all_texts:
        data = dataclasses.replace(data, unlabelled=None)
    if arm.labels is not None:
        train, rest = _fewer_labels(job, root, arm.labels, keep_rest=arm.is_on_all_texts)
        data = dataclasses.replace(data, train=train, unlabelled=rest)
    student = config.student
    if steps is not None:
        optimization = dataclasses.replace(student.optimization, num_steps=steps)
        student = dataclasses.replace(student, optimization=optimization)
        if training.ckpt_steps is None and training.ckpt_frequency:
            training = dataclasses.replace(training, ckpt_steps=max(steps // 4, 1))
    distillation = arm.distillation or DistillationConfig()
    cache = _cache_of(arm, root) if steps is not None and distillation.is_caching_logits else None
    training = dataclasses.replace(training, cache_dir=cache)
    return _changed(job, data=data, training=training, student=student, distillation=distillation)


def _cache_of(arm: Arm, root: Path) -> str:
    """The teacher's outputs for the texts of an arm, which its first run writes to disk."""
    texts = "all" if arm.is_on_all_texts else "labelled"
    count = "" if arm.labels is None else f"-{arm.labels}-labels"
    has_matches = arm.distillation and arm.distillation.intermediate_matches
    return str(root / "cache" / f"{texts}{count}{'-matches' if has_matches else ''}")


def _fewer_labels(job: Job, root: Path, count: int, *, keep_rest: bool) -> tuple[str, str | None]:
    """Files with ``count`` random labelled examples, and with all other texts."""
    data = job.config.data
    rows = [row for _, row in read_rows(str(data.train))]
    if count > len(rows):
        raise UsageError(f"--labels {count:,}: {data.train} has {len(rows):,} examples.")
    random.Random(job.config.training.seed).shuffle(rows)
    others = [row for _, row in read_rows(data.unlabelled)] if data.unlabelled else []
    train, rest = root / "data" / f"{count}-labels.jsonl", root / "data" / f"{count}-rest.jsonl"
    for path, part in ((train, rows[:count]), (rest, rows[count:] + others)):
        if not os.path.isfile(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return str(train), str(rest) if keep_rest else None


def _steps_of(job: Job, prepared: PreparedDistillation) -> int:
    """The optimizer steps of every arm: those of the arm with the most texts."""
    training = prepared.training
    return job.config.student.optimization.total_steps(training.steps_per_epoch)


def _steps_of_teacher(prepared: PreparedDistillation) -> int:
    """The student's steps that cost as much as the teacher's one pass over all texts."""
    parameters = [
        sum(array.size for array in _leaves(model))
        for model in (prepared.teachers[0].model, prepared.student)
    ]
    teacher, student = parameters
    # 2 FLOPs per weight and token forward, 4 backward
    return math.ceil(len(prepared.training.loader) * 2 * teacher / (6 * student))


def _leaves(model: Any) -> list[Any]:
    """The weights that tokens are multiplied by: all matrices but tables of embeddings."""
    import jax
    from flax import nnx

    flat = jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))[0]
    return [
        leaf
        for path, leaf in flat
        if leaf.ndim > 1 and "embedding" not in jax.tree_util.keystr(path).lower()
    ]


def _run(job: Job, arm: Arm, steps: int, root: Path) -> None:
    """Trains one student and keeps its predictions for the test texts; once."""
    run = (baseline_run if arm.distillation is None else student_run)(job.config.training)
    where = run.directory.relative_to(root)
    if os.path.isfile(run.directory / RESULTS):
        return print_note(f"{where}: finished before.")
    print_note(f"{where}: {steps:,} steps ...")
    with contextlib.redirect_stdout(io.StringIO()):
        task, metrics = _train(job, arm, run)
    return print_note(f"{where}: {task.main_metric} {metrics[task.main_metric]:.4f}")


def _train(job: Job, arm: Arm, run: RunPaths) -> tuple[Task[Any], Numbers]:
    from ..devices.mesh import on_device
    from ..run.plan import Plan
    from ..text.inference import run_model
    from . import job_models
    from .fitting import fit, validation_of

    prepared = prepare_distillation(job)
    task, test, tokenizer = prepared.task, prepared.held_out.test, prepared.student_tokens.tokenizer
    assert test is not None
    with on_device(job.config.training):
        training, student = prepared.training, prepared.student
        plan = Plan(total_steps=int(job.config.student.optimization.num_steps or 1))
        validation = validation_of(task, prepared.held_out)
        if arm.distillation is None:
            beside = prepare_baseline(job, prepared, plan, validation)
            training, student, plan = beside.training, beside.student, beside.plan
        outcome = fit(job, training, plan, validation)
        job_models.save(student, tokenizer, run.model, job.config.data)
        predictions = run_model(task, student, test.encoded).predictions
    _write_predictions(run.directory / PREDICTIONS, predictions)
    metrics: Numbers = dict(task.score(test.examples, test.encoded, predictions))
    rows: dict[str, Scores] = {"student": {"metrics": metrics, "model": str(run.model)}}
    save_results(job, task, run, rows, outcome, role="student", test_examples=len(test.examples))
    return task, metrics


def _write_predictions(path: Path, predictions: "Predictions") -> None:
    from safetensors.numpy import save

    arrays = {f"rows/{name}": array for name, array in predictions.rows.items()}
    arrays |= {f"tokens/{name}": array for name, array in predictions.tokens.items()}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    replace_file(path, save(contiguous))


def _read_predictions(path: Path) -> "Predictions":
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from ..text.tasks import Predictions

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path} cannot be read ({reason_of(error)}): remove {path.parent} and run the study "
            "again."
        ) from None

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): array
            for name, array in found.items()
            if name.startswith(prefix)
        }

    return Predictions(under("rows/"), under("tokens/"))


def _directory(root: Path, arm: Arm, seed: int) -> Path:
    role = "baseline" if arm.distillation is None else "student"
    return root / arm.name / f"seed-{seed}" / role


def _compare(
    prepared: PreparedDistillation, arms: Sequence[Arm], root: Path, options: StudyOptions
) -> dict[str, Comparison]:
    """Compares each arm with labels alone on as many labels."""
    from ..study.analysis import compare_arms
    from ..text.inference import run_model

    task, test = prepared.task, prepared.held_out.test
    assert test is not None
    measures = {
        arm.name: [
            task.measure(
                test.examples,
                test.encoded,
                _read_predictions(_directory(root, arm, seed) / PREDICTIONS),
            )
            for seed in range(options.seeds)
        ]
        for arm in arms
    }
    [teacher], of_teacher = prepared.teachers, prepared.test_of_teachers
    assert of_teacher is not None
    predictions = run_model(task, teacher.model, of_teacher.encoded).predictions
    baselines = {
        arm.name: LABELS if arm.labels is None else f"{LABELS}-{arm.labels}-labels" for arm in arms
    }
    return compare_arms(
        measures,
        task.measure(test.examples, of_teacher.encoded, predictions),
        baselines=baselines,
        main_metric=task.main_metric,
        larger_is_better=task.larger_is_better,
        resamplings=options.resamplings,
    )


def _require_same_study(root: Path, job: Job, options: StudyOptions) -> None:
    """Writes the settings of a new study; refuses to continue one with other settings."""
    settings = {"settings": job.config.to_dict(), "resamplings": options.resamplings}
    path = root / SETTINGS
    if os.path.isfile(path):
        before = read_json(path, dict[str, Any])["settings"]
        now = json.loads(json.dumps(settings["settings"]))
        if before != now:
            differing = [name for name in now if before.get(name) != now[name]]
            raise UsageError(
                f"{root} holds a study with other settings ({', '.join(differing)}): choose "
                "another --training.output_dir."
            )
    else:
        root.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)


def _save(
    root: Path,
    job: Job,
    arms: Sequence[Arm],
    options: StudyOptions,
    compared: Mapping[str, Comparison],
) -> StudyResults:
    """Writes ``study.json``; returns its content."""
    first = read_results(_directory(root, arms[0], 0))
    assert first is not None
    found: dict[str, ArmResult] = {}
    for arm in arms:
        directories = [str(_directory(root, arm, seed)) for seed in range(options.seeds)]
        found[arm.name] = {
            "title": arm.title,
            "labels": arm.labels,
            "runs": directories,
            **compared[arm.name],
        }
    results: StudyResults = {
        "format": FORMAT,
        "task": first["task"],
        "main_metric": first["main_metric"],
        "larger_is_better": first["larger_is_better"],
        "seeds": options.seeds,
        "resamplings": options.resamplings,
        "test": first["test"],
        "arms": found,
        "settings": job.config.to_dict(),
        "environment": first["environment"],
    }
    write_study(root, results)
    return results


def print_study(results: StudyResults) -> None:
    """Prints the table of a study."""
    main, rows = results["main_metric"], []
    for found in results["arms"].values():
        difference, gap = found["differences"][main], found["gap_closed"]
        is_baseline = difference["low"] == difference["high"] == 0.0
        rows.append(
            [
                found["title"],
                _with_deviation(found["metrics"][main], found["deviations"][main]),
                "" if is_baseline else _with_interval(difference, "{:+.4f}"),
                "" if is_baseline else f"{found['p_value']:.3f}",
                "" if is_baseline else _with_interval(gap, "{:.0%}"),
                "" if is_baseline else found["verdict"],
            ]
        )
    header = ["", main, "minus labels alone", "p", "gap closed", ""]
    print_table(rows, header)


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def _with_interval(found: Any, form: str) -> str:
    if found["value"] is None:
        return "-"
    value, low, high = (form.format(found[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
