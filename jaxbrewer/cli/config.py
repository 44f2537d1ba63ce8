"""The config of a job on text, read from one file and overridden on the command line."""

import dataclasses
import functools
import os
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
from ..configs.auto import AUTO, KEEPS_AUTO, needs_of_task, settings_of_task
from ..errors import UsageError, missing_file
from .job_defaults import (
    auto_distillation,
    fill,
    fill_optimization,
    is_auto,
    is_set_by_task,
    of_validation,
    of_validation_of_tasks,
)
from .job_files import read_job_file
from .job_sections import StudentConfig, TaskConfig, TeacherConfig, WeightedTeacher
from .overrides import apply_override, flatten, parse_overrides

OUTPUT_DIR = "runs/job"
"""Where a job writes that is not read from a file."""


@dataclasses.dataclass(frozen=True)
class JobConfig(Config):
    """A job: the sections of the file.

    ``training`` applies to both models: the teacher's run is in ``output_dir/teacher``, the
    student's in ``output_dir/student``. ``teachers``, a list of ``{path, weight}``, are several
    teachers of ``distill`` in place of ``teacher``. ``tasks``, a mapping of names to sections of
    ``data``, ``teacher`` and perhaps ``distillation``, are several tasks of one student.

    A job without ``distillation``, or with ``"auto"`` there, has the settings that
    :mod:`jaxbrewer.configs.auto` holds for its task. Once a field is given that changes what is
    learned, the others have the defaults of ``DistillationConfig`` and what the task needs, such
    as its loss. The fields of ``optimization`` that are not given are those of the task's row in
    any case.

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
            fill_optimization(self, name, self.data.task)
            self.nest(name, SECTIONS[name])
        given = self.distillation
        self._nest_tasks(given)
        of_tasks = {name: section.data for name, section in self.tasks.items()}
        best = (
            of_validation_of_tasks(of_tasks, self.training)
            if of_tasks
            else of_validation(self.data, self.training)
        )
        fill(self, "training", **{"output_dir": OUTPUT_DIR, **best})
        if is_auto(given):
            object.__setattr__(self, "distillation", auto_distillation(self.data, given))
        else:
            fill(self, "distillation", **needs_of_task(self.data.task))
        for name, section in SECTIONS.items():
            self.nest(name, section)
        self._nest_teachers()
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

    def _nest_tasks(self, distillation: Any) -> None:
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
                if own.distillation is None and is_auto(distillation):
                    of_task = DistillationConfig(**auto_distillation(own.data, distillation))
                    own = dataclasses.replace(own, distillation=of_task)
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


class Job(NamedTuple):
    """A job and its origin.

    Attributes:
        path: The file.
        config: The job.
        sources: For each dotted name that was given, ``"file"`` or ``"command line"``; other
            fields have their defaults.
        task: The task, if this is a part of a job with several: see :meth:`of_tasks`.
    """

    path: Path
    config: JobConfig
    sources: dict[str, str]
    task: str = ""

    @property
    def is_auto(self) -> bool:
        """Whether the settings of the task are those of ``distillation``."""
        kept = {f"distillation.{field}" for field in KEEPS_AUTO}
        return not any(name.startswith("distillation.") for name in self.sources.keys() - kept)

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
            name = self.name_of(name)
            raise UsageError(f"{self.path} has no {name}: give {what} there, or as --{name}.")
        return value

    def require_files(self, *names: str) -> None:
        """Refuses files of ``data`` that are missing, before a library is loaded to read them.

        Args:
            names: The fields of ``data``, also of each of several tasks.

        Raises:
            UsageError: A file does not exist.
        """
        for own in (self, *self.of_tasks().values()):
            for name in names:
                path = getattr(own.config.data, name)
                if path is not None and not os.path.exists(path):
                    error = missing_file(path)
                    raise UsageError(f"tasks.{own.task}: {error}") if own.task else error

    def name_of(self, name: str) -> str:
        """The name of a field in the file and on the command line."""
        return f"tasks.{self.task}.{name}" if self.task else name

    def of_tasks(self) -> "dict[str, Job]":
        """The tasks of a job with several, each as a job of its own."""
        config, jobs = self.config, {}
        for name, section in config.tasks.items():
            own = dataclasses.replace(
                config,
                tasks={},
                data=section.data,
                teacher=section.teacher,
                distillation=section.distillation or config.distillation,
            )
            jobs[name] = self._replace(config=own, task=name)
        return jobs


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
    pairs = parse_overrides(overrides)
    _open_auto(content, [name for name, _ in pairs], path)
    for name, value in pairs:
        apply_override(content, name, value)
        sources |= dict.fromkeys(flatten(value, name), "command line")
    training = content["training"] = content.get("training") or {}
    if isinstance(training, dict):
        training.setdefault("output_dir", f"runs/{path.stem}")
    try:
        return Job(path, JobConfig.from_dict(content), sources)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _open_auto(content: dict[str, Any], names: Sequence[str], path: Path) -> None:
    """Makes ``distillation: auto`` a section, for overrides that leave the settings to the task.

    Args:
        content: The content of the job file.
        names: The names of the overrides.
        path: The file.

    Raises:
        UsageError: An override changes what is learned.
    """
    for name in names:
        before, is_within, _ = name.partition("distillation.")
        place: Any = content
        for part in before.split(".")[:-1]:
            place = place.get(part) if isinstance(place, Mapping) else None
        if not (is_within and isinstance(place, dict) and place.get("distillation") == AUTO):
            continue
        changed = [n for n in names if n.startswith(f"{before}distillation.")]
        for other in changed:
            if other.removeprefix(f"{before}distillation.") not in KEEPS_AUTO:
                raise UsageError(
                    f"--{other}: {path} has `distillation: auto`, which leaves all such settings "
                    "to the task: remove that line from the file to set single fields. Those that "
                    "are not given then have the defaults of DistillationConfig (docs/auto.md)."
                )
        place["distillation"] = {}


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
