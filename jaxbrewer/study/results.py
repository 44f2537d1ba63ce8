"""``study.json``: what a study found, for programs."""

import os
from pathlib import Path
from typing import Any, TypedDict

from ..json_files import is_there, read_json, write_json

STUDY, FORMAT = "study.json", 1
SETTINGS = "settings.json"
"""What a study writes when it begins."""


class Estimate(TypedDict):
    """A number with its confidence interval; ``None`` where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class Comparison(TypedDict):
    """An arm against labels alone.

    Attributes:
        metrics: The mean of each metric over the seeds.
        deviations: The standard deviation of each metric over the seeds; ``None`` for one seed.
        differences: Each metric minus that of labels alone.
        p_value: Two-sided, of no difference in the main metric.
        gap_closed: The share of the gap between labels alone and the teacher that is closed.
        verdict: ``"gain"``, ``"loss"`` or ``"no difference"`` in the main metric.
    """

    metrics: dict[str, float]
    deviations: dict[str, float | None]
    differences: dict[str, Estimate]
    p_value: float
    gap_closed: Estimate
    verdict: str


class ArmResult(Comparison):
    """An arm of a study.

    Attributes:
        title: What it is.
        labels: Number of labels, where it is not all.
        runs: The run directories, one per seed.
    """

    title: str
    labels: int | None
    runs: list[str]


class StudyResults(TypedDict):
    """The content of ``study.json``.

    Attributes:
        format: :data:`FORMAT`.
        task: The name of the task.
        main_metric: The metric that decides.
        larger_is_better: Its direction.
        seeds: Number of seeds of each arm.
        resamplings: Number of bootstrap samples.
        test: The file with the test examples, and their number as ``examples``.
        arms: The arms by name, labels alone first.
        settings: Every field of the job.
        environment: Versions, command and devices of the first run.
    """

    format: int
    task: str
    main_metric: str
    larger_is_better: bool
    seeds: int
    resamplings: int
    test: dict[str, Any] | None
    arms: dict[str, ArmResult]
    settings: dict[str, Any]
    environment: dict[str, Any]


def write_study(directory: Path, results: StudyResults) -> None:
    """Replaces the results of a study atomically.

    Raises:
        UsageError: They cannot be written.
    """
    write_json(directory / STUDY, results)


def read_study(directory: Path) -> StudyResults | None:
    """Reads the results in a directory; ``None`` if it has none.

    Raises:
        UsageError: The file is damaged.
    """
    path = directory / STUDY
    return read_json(path, StudyResults) if is_there(path) else None


def is_unfinished_study(directory: Path) -> bool:
    """Whether a study has begun in a directory and has not been compared."""
    return os.path.isfile(directory / SETTINGS) and not os.path.isfile(directory / STUDY)
