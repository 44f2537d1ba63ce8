"""Where a job writes: ``<output_dir>/teacher`` and ``<output_dir>/student``."""

import dataclasses
import os
import shutil
from pathlib import Path

from ..configs import TrainingConfig
from ..errors import UsageError


@dataclasses.dataclass(frozen=True)
class Run:
    """The run directory of a model, which may not be there yet.

    Attributes:
        directory: The run directory; the trained model is saved in ``model`` below it.
    """

    directory: Path

    @property
    def model(self) -> Path:
        """Where the trained model is saved, in Hugging Face's format."""
        return self.directory / "model"

    @property
    def is_there(self) -> bool:
        """Whether a training has begun here."""
        return (self.directory / "manifest.json").exists()

    @property
    def has_model(self) -> bool:
        """Whether a training has ended here; ``config.json`` is the last file to be written."""
        return (self.model / "config.json").is_file()

    def training(self, config: TrainingConfig) -> TrainingConfig:
        """The settings of a job with the directories of this run."""
        log_dir = config.log_dir and str(Path(config.log_dir) / self.directory.name)
        return dataclasses.replace(config, output_dir=str(self.directory), log_dir=log_dir)

    def refuse_taken(self, config: TrainingConfig, *, used: Path | None = None) -> None:
        """Raises :class:`UsageError` if a run cannot be written here.

        Args:
            config: Says whether the run that is here is resumed or may be replaced.
            used: A model that the run reads, which must not be replaced by it.
        """
        if self.is_there and not config.overwrite and not config.resume:
            raise UsageError(
                f"{self.directory} holds a run already: choose another --training.output_dir, go "
                "on with it by --resume, or replace it with --training.overwrite true."
            )
        if used is not None and used.resolve().is_relative_to(self.directory.resolve()):
            raise UsageError(
                f"{used} lies in {self.directory}, which would be replaced: choose another "
                "--training.output_dir."
            )
        above = self.directory.absolute()
        while not above.exists():
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UsageError(f"{self.directory} cannot be written: see {above}.")

    def remove_model(self, config: TrainingConfig) -> None:
        """Removes the model of a run that is being replaced."""
        if self.is_there and not config.resume and self.model.is_dir():
            shutil.rmtree(self.model)


def teacher_run(config: TrainingConfig) -> Run:
    """Where ``jaxbrewer train`` writes."""
    return Run(Path(str(config.output_dir)) / "teacher")


def student_run(config: TrainingConfig) -> Run:
    """Where ``jaxbrewer distill`` writes."""
    return Run(Path(str(config.output_dir)) / "student")
