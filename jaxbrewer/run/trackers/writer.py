"""What every tracker is to a training."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

PROJECT = "jaxbrewer"
"""The project or experiment of runs, where the tracker's own variable names no other."""

Settings = Mapping[str, bool | int | float | str]
Rows = Sequence[tuple[int, Mapping[str, float]]]


class Writer(Protocol):
    """Takes the settings and scalars of a training; an object of your own is one by its methods.

    A training calls them in one thread of its own, in this order, and never waits for them before
    its end. An exception ends the writing, with a warning, and not the training.

    Examples:
        >>> class Printed:
        ...     def write_settings(self, settings):
        ...         print(settings["training.seed"])
        ...     def write_scalars(self, rows):
        ...         for step, scalars in rows:
        ...             print(step, scalars.get("scalar/total_loss"))
        ...     def close(self, *, failed=False):
        ...         print("failed" if failed else "finished")
        >>> from jaxbrewer import TrainingConfig
        >>> config = TrainingConfig(output_dir=None, trackers=[Printed()])
    """

    def write_settings(self, settings: Settings) -> None:
        """Takes the fields of the configs by dotted name, those that are not set left out."""

    def write_scalars(self, rows: Rows) -> None:
        """Takes the scalars of some steps.

        Args:
            rows: Pairs of a step and its scalars: every metric of the step as ``scalar/<name>``
                (the effective weights of the loss's terms at step 0), what a callback returned as
                ``validation/<name>``. After a run resumes, steps since its last checkpoint come
                again, with the same values.
        """

    def close(self, *, failed: bool = False) -> None:
        """Ends the writing; ``failed`` if an error or Ctrl-C ended the training."""


@runtime_checkable
class Tracker(Writer, Protocol):
    """A packaged tracker."""

    def write_results(self, step: int, settings: Settings, scores: Mapping[str, float]) -> None:
        """Takes the settings of a finished job, and its model's scores on the test examples."""


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What identifies a run to a tracker.

    Attributes:
        name: The identifier that a run keeps when it resumes; ``None`` without a directory.
        directory: Where it is written.
        log_dir: The directory of TensorBoard's events.
        resumed_at: The step after which it resumes.
    """

    name: str | None = None
    directory: Path | None = None
    log_dir: str | Path | None = None
    resumed_at: int | None = None

    @property
    def title(self) -> str | None:
        """The end of the directory's path, such as ``job/student``, for lists of runs."""
        return None if self.directory is None else "/".join(self.directory.absolute().parts[-2:])
