"""Weights & Biases; its own variables (``WANDB_MODE``, ``WANDB_PROJECT``) configure it."""

import os
from collections.abc import Mapping
from typing import Any

from .writer import PROJECT, Rows, Settings, TrackedRun


class Wandb:
    """A run of Weights & Biases, under the run's identifier.

    Args:
        run: The run.
    """

    def __init__(self, run: TrackedRun):
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.name,
            name=run.title,
            resume="allow",
            reinit="create_new",
        )

    def write_settings(self, settings: Settings) -> None:
        """Writes the settings as the run's config."""
        self._run.config.update(dict(settings), allow_val_change=True)

    def write_scalars(self, rows: Rows) -> None:
        """Logs the scalars; steps that the run has already are dropped."""
        for step, scalars in rows:
            self._run.log(dict(scalars), step=step)

    def write_results(self, step: int, settings: Settings, scores: Mapping[str, float]) -> None:
        """Writes the settings as config and the scores as the run's summary."""
        self.write_settings(settings)
        self._run.summary.update({f"test/{name}": score for name, score in scores.items()})

    def close(self, *, failed: bool = False) -> None:
        """Ends the run, after everything is sent."""
        self._run.finish(exit_code=int(failed))
