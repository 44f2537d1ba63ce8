"""Where a job writes, ``<output_dir>/teacher`` and ``<output_dir>/student``, and its teacher."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..configs import TrainingConfig
from ..errors import UsageError
from ..export.formats import is_export
from ..models.model_directory import ModelDirectory, read_text_model
from ..run.results import RESULTS
from .config import Job


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """The paths of one run, which may not exist yet.

    Attributes:
        directory: The run directory; the trained model is saved in its ``model``.
        task: The task whose model is meant, if the run has several.
    """

    directory: Path
    task: str = ""

    @property
    def model(self) -> Path:
        """Where the trained model is saved, in Hugging Face's format."""
        return self.directory / "model" / self.task

    def of_task(self, task: str) -> "RunPaths":
        """The same run with the model of one of its tasks."""
        return dataclasses.replace(self, task=task)

    @property
    def exists(self) -> bool:
        """Whether a training has started here."""
        return os.path.exists(self.directory / "manifest.json")

    @property
    def models(self) -> list[Path]:
        """The saved models: one, or one for each of several tasks; exports are none."""
        folders = [self.model, *sorted(self.model.glob("*"))]
        return [
            folder
            for folder in folders
            if os.path.isfile(folder / "config.json") and not is_export(folder)
        ]

    @property
    def has_model(self) -> bool:
        """Whether a training has finished here; ``config.json`` is written last."""
        return os.path.isfile(self.model / "config.json")

    def with_directories(self, config: TrainingConfig) -> TrainingConfig:
        """The settings of a job with the directories of this run."""
        log_dir = config.log_dir and str(Path(config.log_dir) / self.directory.name)
        return dataclasses.replace(config, output_dir=str(self.directory), log_dir=log_dir)

    def refusal(self, config: TrainingConfig) -> str:
        """Why a training is refused because of a run that is here; empty if it is not."""
        if not self.exists or config.overwrite or config.resume:
            return ""
        return (
            f"{self.directory} already holds a run: choose another --training.output_dir, "
            "resume it with --resume, or replace it with --training.overwrite true."
        )

    def require_writable(
        self, config: TrainingConfig, *, used: Path | None = None, dry_run: bool = False
    ) -> None:
        """Raises :class:`UsageError` if a run cannot be written here.

        Args:
            config: Whether an existing run is resumed or overwritten.
            used: A model that the run reads and must not overwrite.
            dry_run: Whether a run that is here is no reason, because nothing is written.
        """
        if not dry_run and (refusal := self.refusal(config)):
            raise UsageError(refusal)
        if used is not None and _real(used).is_relative_to(_real(self.directory)):
            raise UsageError(
                f"{used} is in {self.directory}, which would be overwritten: choose another "
                "--training.output_dir."
            )
        above = self.directory.absolute()
        while not os.path.lexists(above):
            above = above.parent
        if not os.path.isdir(above):  # a file, or a link that leads nowhere
            raise UsageError(f"{self.directory} cannot be written: {above} is not a directory.")
        if not os.access(above, os.W_OK):
            raise UsageError(f"{self.directory} cannot be written: no permission in {above}.")
        if any(len(os.fsencode(part)) > 255 for part in self.directory.parts):
            raise UsageError(f"{self.directory} cannot be written: a name in it is too long.")

    def remove_model(self, config: TrainingConfig) -> None:
        """Removes the model and the results of a run that is about to be overwritten."""
        if self.exists and not config.resume:
            (self.directory / RESULTS).unlink(missing_ok=True)
            if os.path.isdir(self.model):
                shutil.rmtree(self.model)


def _real(path: Path) -> Path:
    """The path without links; unlike ``Path.resolve``, also for links that form a circle."""
    return Path(os.path.realpath(path))


def teacher_run(config: TrainingConfig) -> RunPaths:
    """Where ``jaxbrewer train`` writes."""
    return RunPaths(Path(str(config.output_dir)) / "teacher")


def student_run(config: TrainingConfig) -> RunPaths:
    """Where ``jaxbrewer distill`` writes."""
    return RunPaths(Path(str(config.output_dir)) / "student")


def baseline_run(config: TrainingConfig) -> RunPaths:
    """Where ``jaxbrewer distill --baseline`` trains the student on labels alone."""
    return RunPaths(Path(str(config.output_dir)) / "baseline")


def student_runs(job: Job, *, baseline: bool) -> tuple[RunPaths, ...]:
    """The runs that ``jaxbrewer distill`` writes."""
    config = job.config.training
    return (student_run(config), baseline_run(config)) if baseline else (student_run(config),)


def require_writable_students(job: Job, *, baseline: bool, dry_run: bool = False) -> None:
    """Raises :class:`UsageError` if the runs of ``jaxbrewer distill`` cannot be written.

    Args:
        job: The job.
        baseline: Whether the student that learns from labels alone is one of them.
        dry_run: Whether nothing is written.
    """
    config, path = job.config.training, job.config.student.path
    used = None if path is None else Path(path)
    for run in student_runs(job, baseline=baseline):
        run.require_writable(config, used=used, dry_run=dry_run)


def refuse_tasks(job: Job) -> None:
    """Raises :class:`UsageError` for a job with several tasks."""
    if job.config.tasks:
        raise UsageError(
            f"{job.path} has several tasks: only `jaxbrewer distill`, `evaluate`, `plan` and "
            "`inspect` know such jobs; its models are <output_dir>/student/model/<task>."
        )


def find_teachers(job: Job, *, is_trained: bool = True) -> tuple[ModelDirectory, ...]:
    """The teachers of a job: those of ``teachers``, or else the one of :func:`find_teacher`.

    Args:
        job: The job.
        is_trained: As for :func:`find_teacher`.

    Raises:
        UsageError: A directory is missing or holds no model.
    """
    several = job.config.teachers
    if not several:
        return (find_teacher(job, is_trained=is_trained),)
    if job.config.teacher.path is not None:
        raise UsageError(f"{job.path} has both teacher.path and teachers: give one of them.")
    return tuple(read_text_model(str(teacher.path)) for teacher in several)


def named_teachers(sources: Sequence[ModelDirectory]) -> dict[str, ModelDirectory]:
    """Teachers by their rows in tables: ``teacher``, or with their numbers if there are several."""
    if len(sources) == 1:
        return {"teacher": sources[0]}
    return {f"teacher {number}": source for number, source in enumerate(sources)}


def find_teacher(job: Job, *, is_trained: bool = True) -> ModelDirectory:
    """The teacher that ``train`` has saved, or else ``teacher.path``.

    Args:
        job: The job.
        is_trained: Whether a training that was begun must have finished.

    Raises:
        UsageError: There is neither, or the training of the teacher has not finished.
    """
    refuse_tasks(job)
    if job.task:  # each task has its own teacher, and `train` trains one
        return read_text_model(job.need("teacher.path", "the directory of the teacher"))
    run = teacher_run(job.config.training)
    if run.has_model:
        return read_text_model(run.model)
    if run.exists and is_trained:
        raise UsageError(
            f"The training of the teacher in {run.directory} has not finished: resume it with "
            f"`jaxbrewer train {job.path} --resume`."
        )
    return read_text_model(job.need("teacher.path", "the directory of the teacher"))
