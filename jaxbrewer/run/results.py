"""``results.json``: what a training ended with, its scores, settings and versions, for programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ..json_files import is_there, read_json, write_json

RESULTS = "results.json"
"""In a run directory, the results of the training."""

FORMAT = 1

SHOWN_ROLES = {"student": "trained"}
"""What readers see in place of names in a manifest, which calls every trained model a student."""


class Confusion(TypedDict):
    """A confusion matrix.

    Attributes:
        names: The classes.
        counts: Examples by label (row) and prediction (column).
    """

    names: list[str]
    counts: list[list[int]]


class Calibration(TypedDict):
    """Predictions in bins of their confidence.

    Attributes:
        confidence: The mean confidence of each bin.
        accuracy: The share of right predictions in each bin.
        count: The number of predictions in each bin.
    """

    confidence: list[float]
    accuracy: list[float]
    count: list[int]


class Diagrams(TypedDict, total=False):
    """What the pictures of a model's predictions show; a task has some of them."""

    confusion: Confusion
    calibration: Calibration


Numbers = dict[str, float | None]
"""Values by name; ``None`` where a metric is not defined, such as a correlation with a constant."""

Intervals = dict[str, list[float | None]]
"""Both ends of a confidence interval, by the name of its metric."""


class Gain(TypedDict):
    """A distilled student compared with the same student on labels alone.

    Attributes:
        difference: The metrics minus those of labels alone.
        difference_intervals: Their intervals, from paired samples.
        verdict: ``"gain"``, ``"loss"`` or ``"no difference"`` in the main metric.
        gap_closed: The share of the gap between labels alone and the teacher that is closed in the
            main metric; ``None`` if there is no gap, or not one teacher.
    """

    difference: Numbers
    difference_intervals: Intervals
    verdict: str
    gap_closed: float | None


class Scores(TypedDict):
    """The scores of a model, a column of the table of results.

    Attributes:
        metrics: By name, the main metric first; empty without test examples.
        intervals: For each of them, and each number of ``agreement``, its 95 % interval.
        agreement: How the predictions differ from the teacher's.
        difference: The metrics minus the teacher's.
        difference_intervals: The intervals of ``difference``, from paired samples.
        gain: Of the student, if the same student learned from labels alone beside it.
        selective: The threshold of confidence above which the teacher is not needed, if asked
            for: the fields of :class:`~jaxbrewer.text.selective.Selection`.
        details: Metrics of each class or kind of span, if asked for.
        parameters: Number of weights.
        bytes: Size of the files with the weights.
        latency_ms: ``p50`` and ``p95`` of the time for one row, in milliseconds.
        examples_per_second: Speed at inference, in batches.
        cut: Number of examples that were cut to the maximum length.
        model: The model's directory.
        diagrams: What pictures of it show.
    """

    metrics: Numbers
    intervals: NotRequired[Intervals]
    agreement: NotRequired[Numbers]
    difference: NotRequired[Numbers]
    difference_intervals: NotRequired[Intervals]
    gain: NotRequired[Gain]
    selective: NotRequired[Numbers]
    details: NotRequired[dict[str, Numbers]]
    parameters: NotRequired[int]
    bytes: NotRequired[int]
    latency_ms: NotRequired[dict[str, float]]
    examples_per_second: NotRequired[float]
    cut: NotRequired[int]
    model: NotRequired[str]
    diagrams: NotRequired[Diagrams]


class TrainingResult(TypedDict):
    """How a training went.

    Attributes:
        steps: Optimizer steps that were run.
        planned_steps: Optimizer steps that were planned; early stopping runs fewer.
        best_step: The step whose checkpoint is the saved model; ``None`` is the last step.
        validation: The metrics of ``data.validation`` at each checkpoint, with its ``step``.
    """

    steps: int
    planned_steps: int
    best_step: int | None
    validation: list[dict[str, float]]


class LinearBaseline(TypedDict):
    """A teacher and a linear model on words, trained on the same labels.

    Attributes:
        path: The file with the examples that score them.
        examples: Their number.
        teacher: The teacher's metrics.
        linear: Those of the linear model, of which only the main one and macro-F1 mean something.
        is_teacher_worse: Whether the teacher has the worse main metric.
    """

    path: str
    examples: int
    teacher: Numbers
    linear: Numbers
    is_teacher_worse: bool


class Results(TypedDict):
    """The content of ``results.json``.

    Attributes:
        format: :data:`FORMAT`.
        role: ``"teacher"``, ``"student"`` or ``"baseline"``: the row of this run's own model.
        task: The name of the task.
        main_metric: The metric that leads the table.
        larger_is_better: Whether a larger main metric is better.
        rows: The scores by row: ``teacher``, ``student``, ``baseline``.
        test: The file with the test examples as ``path``, and their number as ``examples``; by the
            names of the tasks where there are several; ``None`` without test examples.
        training: How the training went.
        settings: Every field of the job, nested as in its file.
        environment: Versions, command, devices and the time of the end.
        linear_baseline: The teacher beside a linear model, where that was checked.
    """

    format: int
    role: str
    task: str
    main_metric: str
    larger_is_better: bool
    rows: dict[str, Scores]
    test: dict[str, Any] | None
    training: TrainingResult
    settings: dict[str, Any]
    environment: dict[str, Any]
    linear_baseline: NotRequired[LinearBaseline]


def write_results(directory: Path, results: Results) -> None:
    """Replaces the results of a run atomically.

    Raises:
        UsageError: They cannot be written.
    """
    write_json(directory / RESULTS, results)


def read_results(directory: str | Path) -> Results | None:
    """Reads the results of a run directory; ``None`` if it has none.

    Raises:
        UsageError: The file cannot be read, or has another shape.
    """
    path = Path(directory) / RESULTS
    return read_json(path, Results) if is_there(path) else None


def own_scores(rows: Mapping[str, Scores], role: str) -> dict[str, float]:
    """The defined scores of a run's own model, by metric; by ``<task>/<metric>`` of several tasks.

    Args:
        rows: The rows of the results.
        role: The row of the run's own model.

    Examples:
        >>> own_scores({"student": {"metrics": {"accuracy": 0.9, "pearson": None}}}, "student")
        {'accuracy': 0.9}
        >>> own_scores({"topic/teacher": {"metrics": {"accuracy": 0.9}},
        ...     "topic/student": {"metrics": {"accuracy": 0.8}}}, "student")
        {'topic/accuracy': 0.8}
    """
    return {
        f"{row.removesuffix(role)}{metric}": value
        for row, scores in rows.items()
        if row.rpartition("/")[2] == role
        for metric, value in scores["metrics"].items()
        if value is not None
    }


def of_task(results: Mapping[str, Any], task: str) -> dict[str, Any] | None:
    """What a run of several tasks holds of one of them, as a run of that task alone has it.

    Args:
        results: The content of ``results.json``.
        task: The name of the task.

    Returns:
        The results; ``None`` if the run has no such task.

    Examples:
        >>> section = {"teacher": {"path": "a"}, "distillation": None}
        >>> results = {"role": "student", "rows": {"topic/student": {}, "spam/student": {}},
        ...     "settings": {"tasks": {"topic": section}, "distillation": {"temperature": 2}}}
        >>> of_task(results, "topic")["rows"], of_task(results, "topic")["settings"]
        ({'student': {}}, {'distillation': {'temperature': 2}, 'teacher': {'path': 'a'}})
        >>> of_task(results, "spam")
    """
    settings, rows, test = (
        value if isinstance(value, Mapping) else {}
        for value in map(results.get, ("settings", "rows", "test"))
    )
    tasks = settings.get("tasks")
    section = tasks.get(task) if isinstance(tasks, Mapping) else None
    if not isinstance(section, Mapping):
        return None
    own = {name: value for name, value in section.items() if value is not None}
    return {
        **results,
        "rows": {
            row.removeprefix(f"{task}/"): scores
            for row, scores in rows.items()
            if row.startswith(f"{task}/")
        },
        "test": test.get(task),
        "settings": {name: value for name, value in settings.items() if name != "tasks"} | own,
    }


def hyperparameters(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a job as flat hyperparameters; those that are not set are left out.

    Examples:
        >>> hyperparameters({"student": {"layers": [0, 2], "path": None}, "seed": 3})
        {'student.layers': '[0, 2]', 'seed': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{prefix}.{name}".strip(".")
        if isinstance(value, Mapping):
            flat |= hyperparameters(value, path)
        elif value is not None and value != []:
            flat[path] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
