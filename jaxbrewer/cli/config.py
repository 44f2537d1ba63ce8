"""The config of a job on text, read from one file and overridden on the command line."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..configs import (
    Config,
    DataConfig,
    DistillationConfig,
    OptimizationConfig,
    TrainingConfig,
)
from ..configs.auto import AUTO, AUTO_SETTINGS, settings_of_task
from ..errors import UsageError
from .job_files import read_job_file
from .overrides import apply_override, flatten, parse_overrides


@dataclasses.dataclass(frozen=True)
class TeacherConfig(Config):
    """The large model.

    Args:
        path: A Hugging Face directory: where ``train`` starts, and the teacher of ``distill``
            unless ``train`` has saved one in the same ``output_dir``.
        settings: Fields of its ``config.json`` that ``train`` changes, such as
            ``{"classifier_pooling": "mean"}`` for a sentence encoder.
        frozen: Parts that ``train`` does not change, as prefixes of their paths, such as
            ``"bert.embeddings"``.
        optimization: The optimizer of ``train``.
    """

    path: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frozen: Sequence[str] = ()
    optimization: OptimizationConfig = dataclasses.field(
        default_factory=lambda: OptimizationConfig(learning_rate=5e-5)
    )

    def __post_init__(self) -> None:
        """Checks each field."""
        self.require("path", self.path is None or isinstance(self.path, str), "a directory")
        self.require("settings", isinstance(self.settings, Mapping), "a mapping")
        is_list = isinstance(self.frozen, (list, tuple))
        holds = is_list and all(isinstance(path, str) for path in self.frozen)
        self.require("frozen", holds, "a list of paths")
        object.__setattr__(self, "frozen", tuple(self.frozen))
        _fill(self, "optimization", learning_rate=5e-5)
        self.nest("optimization", OptimizationConfig)


@dataclasses.dataclass(frozen=True)
class StudentConfig(Config):
    """The small model: a directory, layers of the teacher, or a size.

    Args:
        path: A Hugging Face directory to start from.
        layers: Layers of the teacher to start from, such as ``[0, 2, 4]``.
        size: Fields of ``config.json`` that differ from the teacher's, such as
            ``{"num_hidden_layers": 2, "hidden_size": 128}``; the student starts from random
            weights. With the ``model_type`` of another family, all other fields are the family's.
        tokenizer: The directory of its tokenizer; by default that of ``path``, or the teacher's.
        optimization: The optimizer of ``distill``.
    """

    path: str | None = None
    layers: Sequence[int] | None = None
    size: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)

    def __post_init__(self) -> None:
        """Checks each field."""
        given = [name for name in ("path", "layers", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"StudentConfig takes one of path, layers and size, got {given}.")
        self.require("path", self.path is None or isinstance(self.path, str), "a directory")
        if self.layers is not None:
            holds = isinstance(self.layers, (list, tuple)) and all(
                isinstance(layer, int) and not isinstance(layer, bool) for layer in self.layers
            )
            self.require("layers", holds, "a list of layer numbers")
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.size is not None:
            self.require("size", isinstance(self.size, Mapping), "a mapping")
        holds = self.tokenizer is None or isinstance(self.tokenizer, str)
        self.require("tokenizer", holds, "a directory")
        if self.tokenizer is not None and self.layers is not None:
            raise UsageError(
                "StudentConfig takes no tokenizer with layers: the teacher's layers read the "
                "teacher's tokens."
            )
        self.nest("optimization", OptimizationConfig)


OUTPUT_DIR = "runs/job"
"""Where a job writes that is not read from a file."""


@dataclasses.dataclass(frozen=True)
class WeightedTeacher(Config):
    """One of several teachers.

    Args:
        path: Its Hugging Face directory.
        weight: Its weight in the average of the teachers.
    """

    path: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Checks each field."""
        self.require("path", isinstance(self.path, str) and bool(self.path), "a directory")
        self.require_positive("weight")


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """One of several tasks.

    Args:
        data: Its files.
        teacher: Its teacher; ``path`` is used.
        distillation: Its losses; by default those of the job.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    distillation: DistillationConfig | None = None

    def __post_init__(self) -> None:
        """Builds the sections from mappings."""
        self.nest("data", DataConfig)
        self.nest("teacher", TeacherConfig)
        if self.distillation is not None:
            self.nest("distillation", DistillationConfig)


@dataclasses.dataclass(frozen=True)
class JobConfig(Config):
    """A job: the sections of the file.

    ``training`` applies to both models: the teacher's run is in ``output_dir/teacher``, the
    student's in ``output_dir/student``. ``teachers``, a list of ``{path, weight}``, are several
    teachers of ``distill`` in place of ``teacher``. ``tasks``, a mapping of names to sections of
    ``data``, ``teacher`` and perhaps ``distillation``, are several tasks of one student.

    A job without ``distillation``, or with ``"auto"`` there, has the settings that
    :mod:`jaxbrewer.configs.auto` holds for its task. Once a field is given, the others have the
    defaults of ``DistillationConfig`` and what the task needs, such as its loss. The fields of
    ``optimization`` that are not given are those of the task's row in any case.

    Examples:
        >>> JobConfig().distillation == JobConfig(distillation="auto").distillation
        True
        >>> given = {"temperature": 2}
        >>> JobConfig(distillation=given).distillation == DistillationConfig(**given)
        True
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    teacher: TeacherConfig = None  # type: ignore[assignment]  # filled by the task
    teachers: Sequence[WeightedTeacher] = ()
    tasks: Mapping[str, TaskConfig] = dataclasses.field(default_factory=dict)
    student: StudentConfig = None  # type: ignore[assignment]  # filled by the task
    distillation: DistillationConfig = None  # type: ignore[assignment]  # filled by the task
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(output_dir=OUTPUT_DIR)
    )

    def __post_init__(self) -> None:
        """Builds the sections from mappings."""
        for name, section in SECTIONS.items():
            _require_names(name, getattr(self, name), section)
        self.nest("data", DataConfig)
        for name in ("teacher", "student"):
            _fill_optimization(self, name)
            self.nest(name, SECTIONS[name])
        from ..text.tasks import TASKS, task_class  # loads NumPy, which the checks above spare

        _fill(self, "training", **{"output_dir": OUTPUT_DIR, **_of_validation(self)})
        is_auto = _is_auto(self.distillation)
        if self.data.task in TASKS:
            needs = task_class(self.data.task).distillation_defaults
            if is_auto:
                object.__setattr__(self, "distillation", auto_distillation(self.data))
            else:
                _fill(self, "distillation", **needs)
        for name, section in SECTIONS.items():
            self.nest(name, section)
        self._nest_teachers()
        self._nest_tasks(is_auto=is_auto)
        self.training.require("output_dir", self.training.output_dir is not None, "a directory")

    def _nest_teachers(self) -> None:
        given = () if self.teachers is None else self.teachers
        self.require("teachers", isinstance(given, (list, tuple)), "a list of {path, weight}")
        self.require("teachers", len(given) != 1, "at least two; one is the section teacher")
        teachers = []
        for number, teacher in enumerate(given):
            try:
                own = (
                    teacher
                    if isinstance(teacher, WeightedTeacher)
                    else WeightedTeacher.from_dict(teacher)
                )
            except UsageError as error:
                raise UsageError(f"teachers[{number}]: {error}") from None
            teachers.append(own)
        object.__setattr__(self, "teachers", tuple(teachers))

    def _nest_tasks(self, *, is_auto: bool) -> None:
        given = {} if self.tasks is None else self.tasks
        self.require("tasks", isinstance(given, Mapping), "a mapping from names to sections")
        self.require("tasks", len(given) != 1, "at least two; one is the section data")
        tasks = {}
        section: Any
        for name, section in given.items():
            is_name = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None
            self.require("tasks", is_name, "named with letters, digits, _ and -")
            try:
                is_built = isinstance(section, TaskConfig)
                own = section if is_built else TaskConfig.from_dict(section)
                if is_auto and own.distillation is None:
                    distillation = DistillationConfig(**auto_distillation(own.data))
                    own = dataclasses.replace(own, distillation=distillation)
                tasks[name] = own
            except UsageError as error:
                raise UsageError(f"tasks.{name}: {error}") from None
        object.__setattr__(self, "tasks", tasks)


def _require_names(section: str, given: Any, cls: type[Config]) -> None:
    """Raises :class:`UsageError` if a section that is still a mapping has unknown fields."""
    if isinstance(given, Mapping):
        try:
            cls.require_names(given)
        except UsageError as error:
            raise UsageError(f"{section}: {error}") from None


SECTIONS: dict[str, type[Config]] = {
    "data": DataConfig,
    "teacher": TeacherConfig,
    "student": StudentConfig,
    "distillation": DistillationConfig,
    "training": TrainingConfig,
}


def section_defaults() -> dict[str, Config]:
    """The sections of an empty job, a classification, without loading tasks."""
    auto = settings_of_task(DataConfig().task)
    return {
        "data": DataConfig(),
        "teacher": TeacherConfig(optimization=OptimizationConfig(**auto.teacher)),
        "student": StudentConfig(optimization=OptimizationConfig(**auto.student)),
        "distillation": DistillationConfig(**auto.distillation),
        "training": TrainingConfig(output_dir=OUTPUT_DIR),
    }


def is_set_by_task(field: str) -> bool:
    """Whether the default of a field of a job comes from the row of its task.

    Examples:
        >>> is_set_by_task("distillation.temperature"), is_set_by_task("training.seed")
        (True, False)
    """
    section, _, rest = field.partition(".")
    rows = AUTO_SETTINGS.values()
    if section == "distillation":
        return any(rest in row.distillation for row in rows)
    name = rest.removeprefix("optimization.")
    fields = ("teacher",) if section == "teacher" else ("student", "new_student")
    return section in ("teacher", "student") and any(
        name in getattr(row, field) for row in rows for field in fields
    )


SMALLER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "mse"})
"""Metrics whose smallest value is the best; the task says so of its main metric."""


def _of_validation(job: JobConfig) -> dict[str, Any]:
    """The defaults of ``training`` in a job with ``data.validation``: they keep the best.

    Examples:
        >>> job = JobConfig(data={"validation": "dev.tsv"}, training={"patience": 3})
        >>> job.training.best_metric, job.training.best_mode, job.training.keep_best
        ('accuracy', 'max', None)
        >>> training = {"best_metric": "loss", "keep_last": 1}
        >>> job = JobConfig(data={"validation": "dev.tsv"}, training=training)
        >>> job.training.best_mode, job.training.keep_best
        ('min', 1)
    """
    from ..text.tasks import TASKS, task_class

    given = job.training if isinstance(job.training, Mapping) else {}
    if job.data.validation is None or job.data.task not in TASKS:
        return {}
    task = task_class(job.data.task)
    metric = given.get("best_metric") or task.main_metric
    larger = str(metric) not in SMALLER_IS_BETTER
    if metric == task.main_metric:
        larger = task.larger_is_better
    removes = given.get("keep_last") is not None or given.get("keep_every") is not None
    return {
        "best_metric": metric,
        "best_mode": "max" if larger else "min",
        **({"keep_best": 1} if removes else {}),
    }


def _is_auto(section: Any) -> bool:
    return section is None or section == AUTO or section == {}


def auto_distillation(data: DataConfig) -> dict[str, Any]:
    """The fields of ``distillation: auto``: what the task needs, and the settings of its row.

    Examples:
        >>> auto_distillation(DataConfig(task="multi-label"))
        {'kd_loss_type': 'bce', 'temperature': 2, 'hard_label_weight': 0}
    """
    from ..text.tasks import task_class

    needs = task_class(data.task).distillation_defaults
    return {**needs, **settings_of_task(data.task).distillation}


def _fill_optimization(config: JobConfig, field: str) -> None:
    """Adds the optimizer's settings of the task to a section that is a mapping."""
    section = getattr(config, field)
    if section is not None and not isinstance(section, Mapping):
        return
    given = {} if section is None else dict(section)
    own = given.get("optimization")
    if own is None or isinstance(own, Mapping):
        defaults = settings_of_task(config.data.task).optimization(field, given)
        given["optimization"] = {**defaults, **(own or {})}
    object.__setattr__(config, field, given)


def _fill(config: Config, field: str, **defaults: Any) -> None:
    """Adds the defaults that a section has in this place, if it is a mapping."""
    section = getattr(config, field)
    if section is None or isinstance(section, Mapping):
        object.__setattr__(config, field, {**defaults, **(section or {})})


class Job(NamedTuple):
    """A job and its origin.

    Attributes:
        path: The file.
        config: The job.
        sources: For each dotted name that was given, ``"file"`` or ``"command line"``; other
            fields have their defaults.
    """

    path: Path
    config: JobConfig
    sources: dict[str, str]

    @property
    def is_auto(self) -> bool:
        """Whether the settings of the task are those of ``distillation``."""
        return not any(name.startswith("distillation.") for name in self.sources)

    def source_of(self, name: str) -> str:
        """Where the value of a field comes from: a source, ``"auto"`` or ``"default"``."""
        is_auto = is_set_by_task(name) and (self.is_auto or not name.startswith("distillation."))
        return self.sources.get(name, "auto" if is_auto else "default")

    def need(self, name: str, what: str) -> Any:
        """The value of a field that has no default.

        Raises:
            UsageError: It was not given.
        """
        value = functools.reduce(getattr, name.split("."), self.config)
        if value is None:
            raise UsageError(f"{self.path} has no {name}: give {what} there, or as --{name}.")
        return value


def read_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Reads a job from a YAML or JSON file, overridden by ``--section.field value`` pairs.

    Values of overrides are read as YAML, so ``8`` is a number and ``[0, 2]`` a list; an item of a
    list is named by its number (``--distillation.intermediate_matches.0.weight 2``). Without an
    ``output_dir``, it is ``runs/`` and the name of the file.

    Raises:
        UsageError: The file cannot be read, or a key or a value cannot be used.
    """
    path = Path(path)
    content = read_job_file(path)
    sources = dict.fromkeys(flatten(content), "file")
    for name, value in parse_overrides(overrides):
        apply_override(content, name, value)
        sources |= dict.fromkeys(flatten(value, name), "command line")
    training = content["training"] = content.get("training") or {}
    if isinstance(training, dict):
        training.setdefault("output_dir", f"runs/{path.stem}")
    try:
        return Job(path, JobConfig.from_dict(content), sources)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_data_fields(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of ``data`` that ``--data.field value`` sets for a model without a job.

    Args:
        path: The model's directory, for messages.
        overrides: The overrides.

    Raises:
        UsageError: An override is of another section.
    """
    content: dict[str, Any] = {}
    for name, value in parse_overrides(overrides):
        if not name.startswith("data."):
            raise UsageError(f"--{name}: {path} is a model, which takes only --data.field.")
        apply_override(content, name, value)
    fields: dict[str, Any] = content.get("data", {})
    return fields
