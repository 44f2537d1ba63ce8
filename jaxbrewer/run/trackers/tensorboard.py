"""TensorBoard's event files."""

from collections.abc import Mapping

from ..logs import Events
from .writer import Rows, Settings, TrackedRun


class TensorBoard:
    """Writes the events of a run to its ``log_dir``; of a run that resumes, later ones are cut.

    Args:
        run: The run.

    Raises:
        UsageError: The directory cannot be written.
    """

    def __init__(self, run: TrackedRun):
        # A run that resumes before its first checkpoint writes everything again.
        keeps = -1 if run.resumed_at == 0 else run.resumed_at
        self._events = Events(str(run.log_dir), run.name or "run", keeps)

    def write_settings(self, settings: Settings) -> None:
        """Writes nothing: TensorBoard shows settings beside results."""

    def write_scalars(self, rows: Rows) -> None:
        """Appends the scalars, at once."""
        self._events.append(rows)

    def write_results(self, step: int, settings: Settings, scores: Mapping[str, float]) -> None:
        """Appends hyperparameters, and the scores as ``test/<name>``."""
        self._events.append_results(step, settings, scores)

    def close(self, *, failed: bool = False) -> None:
        """Closes the file."""
        self._events.close()
