"""Evaluates models: metrics with intervals, agreement with a teacher, size and speed."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from ..forward.as_model import as_model
from ..models.model_directory import read_model_directory
from ..run.results import Gain, Intervals, Numbers, Scores
from .gain import gap_closed, verdict
from .inference import Progress, measure_latency, run_model
from .selective import choose_threshold
from .tasks import Measure, Predictions, Task, Texts
from .tasks.measure import bootstrap, interval

_NUMBER_OF_ROWS_TO_TIME = 100


class ModelToScore(NamedTuple):
    """A model, the directory it was saved in, and the texts to score it on.

    Attributes:
        model: The model, or the predictions of a teacher that is not run.
        directory: Its directory; ``None`` for predictions.
        texts: The examples, and their tokens as the model reads them.
        names: The names of its outputs, in order; empty if they have none.
    """

    model: Any
    directory: Path | None
    texts: Texts
    names: Sequence[str] = ()


class ScoredModel(NamedTuple):
    """What running a model on the examples gave.

    Attributes:
        scores: Its metrics, size and speed.
        measure: What its metrics are computed from.
        predictions: What it predicts.
    """

    scores: Scores
    measure: Measure
    predictions: Predictions


class Evaluation(TypedDict):
    """The scores of models on the same examples.

    Attributes:
        task: The name of the task.
        main_metric: The metric that leads the table.
        larger_is_better: Whether a larger main metric is better.
        examples: Number of examples.
        device: The device that ran the models.
        batch_size: Rows per batch.
        level: The level of the intervals.
        resamplings: Number of bootstrap samples.
        seed: Their seed.
        rows: The scores by the name of the model.
    """

    task: str
    main_metric: str
    larger_is_better: bool
    examples: int
    device: str
    batch_size: int
    level: float
    resamplings: int
    seed: int
    rows: dict[str, Scores]


def evaluation_of(
    task: Task[Any],
    models: Mapping[str, ModelToScore],
    *,
    scored: Mapping[str, ScoredModel] = MappingProxyType({}),
    batch_size: int = 64,
    level: float = 0.95,
    resamplings: int = 1000,
    seed: int = 0,
    with_details: bool = False,
    selective: float | None = None,
    report: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores models on the same examples and compares them.

    Each is compared with the one named ``teacher``, and ``student`` with ``baseline``: the same
    student on labels alone.

    Args:
        task: The task.
        models: The models by name.
        scored: What :func:`score_models` found for some of them; the others are run.
        batch_size: Rows per batch.
        level: The level of the confidence intervals.
        resamplings: Number of bootstrap samples.
        seed: Seed of the samples.
        with_details: Whether to compute the metrics of each class.
        selective: The rate of agreement for which to find a threshold of confidence.
        report: Called with what takes the next seconds.
        progress: Called while a model runs, with the number of rows so far, and of all.
    """
    new = score_models(
        task,
        {name: model for name, model in models.items() if name not in scored},
        batch_size=batch_size,
        with_details=with_details,
        report=report,
        progress=progress,
    )
    found = {name: scored[name] if name in scored else new[name] for name in models}
    report("computing confidence intervals")
    rows, measures = {}, {name: measure for name, (_, measure, _) in found.items()}
    drawn = bootstrap(list(measures.values()), resamplings=resamplings, seed=seed)
    samples = dict(zip(measures, drawn, strict=True))
    for name, (own, measure, predictions) in found.items():
        scores = own.copy()
        scores["intervals"] = _intervals(measure.metrics(), samples[name], level)
        if "teacher" in models and name != "teacher":
            scores["difference"], scores["difference_intervals"] = _differences(
                measure, measures["teacher"], samples[name], samples["teacher"], level
            )
            of_teacher = _comparable(task, models, name, found["teacher"][2])
            if of_teacher is not None:
                _add_agreement(
                    task, models, name, scores, predictions, of_teacher,
                    batch_size=batch_size, level=level, resamplings=resamplings, seed=seed,
                )  # fmt: skip
                if selective is not None:
                    _add_selection(task, scores, predictions, of_teacher, selective, level)
        if name == "student" and "baseline" in models:
            scores["gain"] = _gain(task, measures, samples, level)
        rows[name] = scores
    return Evaluation(
        task=task.name,
        main_metric=task.main_metric,
        larger_is_better=task.larger_is_better,
        examples=len(next(iter(models.values())).texts.examples),
        device=describe_device(),
        batch_size=batch_size,
        level=level,
        resamplings=resamplings,
        seed=seed,
        rows=rows,
    )


def score_models(
    task: Task[Any],
    models: Mapping[str, ModelToScore],
    *,
    batch_size: int = 64,
    with_details: bool = False,
    report: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> dict[str, ScoredModel]:
    """Runs models on examples; takes arguments of :func:`evaluation_of`, which compares them."""
    found = {}
    for name, to_score in models.items():
        report(f"scoring the {name}")
        found[name] = _score(task, to_score, batch_size, with_details, progress)
    return found


def describe_device() -> str:
    """The kind of the default device.

    Examples:
        >>> describe_device()
        'cpu'
    """
    device: str = jax.devices()[0].device_kind
    return device


def count_parameters(model: Any) -> int:
    """The number of all weights, trained or frozen."""
    return sum(leaf.size for leaf in jax.tree.leaves(as_model(model).params))


def _score(
    task: Task[Any],
    to_score: ModelToScore,
    batch_size: int,
    with_details: bool,
    progress: Progress | None,
) -> ScoredModel:
    model, directory, (examples, encoded), _ = to_score
    if isinstance(model, Predictions):
        measure = task.measure(examples, encoded, model)
        scores = Scores(metrics=_finite(measure.metrics()), intervals={})
        return ScoredModel(scores, measure, model)
    assert directory is not None
    wrapped = as_model(model)
    predictions, speed = run_model(task, wrapped, encoded, batch_size=batch_size, progress=progress)
    measure = task.measure(examples, encoded, predictions)
    seconds = measure_latency(task, wrapped, encoded, rows=_NUMBER_OF_ROWS_TO_TIME)
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    scores = Scores(
        metrics=_finite(measure.metrics()),
        intervals={},
        parameters=count_parameters(wrapped),
        bytes=read_model_directory(directory).size,
        latency_ms={"p50": float(p50), "p95": float(p95)},
        examples_per_second=speed,
        cut=int(encoded.facts["is_cut"].sum()) if "is_cut" in encoded.facts else 0,
        model=str(directory),
    )
    diagrams = task.diagrams(examples, encoded, predictions)
    if diagrams:
        scores["diagrams"] = diagrams
    if with_details:
        details = task.details(examples, encoded, predictions)
        scores["details"] = {name: _finite(values) for name, values in details.items()}
    return ScoredModel(scores, measure, predictions)


def _differences(
    one: Measure,
    other: Measure,
    samples: Mapping[str, np.ndarray],
    other_samples: Mapping[str, np.ndarray],
    level: float,
) -> tuple[Numbers, Intervals]:
    """The metrics of one model minus those of another, with the intervals of paired samples."""
    of_other = other.metrics()
    values = {
        name: value - of_other[name] for name, value in one.metrics().items() if name in of_other
    }
    drawn = {name: samples[name] - other_samples[name] for name in values}
    return _finite(values), _intervals(values, drawn, level)


def _gain(
    task: Task[Any],
    measures: Mapping[str, Measure],
    samples: Mapping[str, Mapping[str, np.ndarray]],
    level: float,
) -> Gain:
    """What the student gained over the baseline."""
    main = task.main_metric
    values = {name: measure.metrics()[main] for name, measure in measures.items()}
    difference, intervals = _differences(
        measures["student"], measures["baseline"], samples["student"], samples["baseline"], level
    )
    share = float("nan")
    if "teacher" in values:
        share = float(gap_closed(values["student"], values["baseline"], values["teacher"]))
    is_gap = (values.get("teacher", 0.0) > values["baseline"]) == task.larger_is_better
    return Gain(
        difference=difference,
        difference_intervals=intervals,
        verdict=verdict(intervals[main], larger_is_better=task.larger_is_better),
        gap_closed=share if is_gap and math.isfinite(share) else None,
    )


def _comparable(
    task: Task[Any], models: Mapping[str, ModelToScore], name: str, of_teacher: Predictions
) -> Predictions | None:
    """The teacher's predictions as a model's outputs are ordered; ``None`` if they differ."""
    student, teacher = models[name], models["teacher"]
    encoded, other = student.texts.encoded, teacher.texts.encoded
    if task.reads_same_tokens and not np.array_equal(encoded.input_ids, other.input_ids):
        return None
    if tuple(student.names) == tuple(teacher.names):
        return of_teacher
    if set(student.names) != set(teacher.names):
        return None
    return task.reorder(of_teacher, [list(teacher.names).index(one) for one in student.names])


def _add_agreement(
    task: Task[Any],
    models: Mapping[str, ModelToScore],
    name: str,
    scores: Scores,
    predictions: Predictions,
    of_teacher: Predictions,
    *,
    batch_size: int,
    level: float,
    resamplings: int,
    seed: int,
) -> None:
    model, _, (examples, encoded), _ = models[name]
    if task.keeps_both:
        teacher = models["teacher"].model
        predictions, _ = run_model(task, model, encoded, teacher=teacher, batch_size=batch_size)
    measure = task.agreement(examples, encoded, predictions, of_teacher)
    if measure is not None:
        [samples] = bootstrap([measure], resamplings=resamplings, seed=seed)
        values = measure.metrics()
        scores["agreement"] = _finite(values)
        scores["intervals"] |= _intervals(values, samples, level)


def _add_selection(
    task: Task[Any],
    scores: Scores,
    predictions: Predictions,
    of_teacher: Predictions,
    rate: float,
    level: float,
) -> None:
    answers = task.answers(predictions, of_teacher)
    if answers is not None:
        choice = choose_threshold(*answers, rate=rate, level=level)
        scores["selective"] = _finite(dataclasses.asdict(choice))


def _finite(values: Mapping[str, float]) -> Numbers:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _intervals(
    values: Mapping[str, float], samples: Mapping[str, np.ndarray], level: float
) -> Intervals:
    found = {name: interval(value, samples[name], level=level) for name, value in values.items()}
    return {
        name: [end if math.isfinite(end) else None for end in ends] for name, ends in found.items()
    }
