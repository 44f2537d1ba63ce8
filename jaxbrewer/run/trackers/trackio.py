"""Trackio; its own variables (``TRACKIO_DIR``, ``TRACKIO_SPACE_ID``) configure it."""

from collections.abc import Mapping
from typing import Any

from .writer import PROJECT, Rows, Settings, TrackedRun


class Trackio:
    """A run of Trackio, whose name ends in the run's identifier.

    Args:
        run: The run.
    """

    def __init__(self, run: TrackedRun):
        import trackio

        name = None if run.name is None else f"{run.title}-{run.name}"
        self._run: Any = trackio.init(PROJECT, name=name, resume="allow", embed=False)

    def write_settings(self, settings: Settings) -> None:
        """Adds the settings to the run's config, which its first scalars carry."""
        self._run.config |= settings

    def write_scalars(self, rows: Rows) -> None:
        """Logs the scalars."""
        for step, scalars in rows:
            self._run.log(dict(scalars), step=step)

    def write_results(self, step: int, settings: Settings, scores: Mapping[str, float]) -> None:
        """Logs the scores, which carry the settings."""
        self.write_settings(settings)
        self.write_scalars([(step, {f"test/{name}": score for name, score in scores.items()})])

    def close(self, *, failed: bool = False) -> None:
        """Ends the run, after everything is sent."""
        self._run.finish()
