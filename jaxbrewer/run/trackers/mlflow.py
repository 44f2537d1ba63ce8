"""MLflow; its own variables (``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``) configure it."""

import os
import time
from collections.abc import Mapping
from typing import Any

from .writer import PROJECT, Rows, Settings, TrackedRun

_TAG = "jaxbrewer.run"
_AT_ONCE = 100
"""MLflow takes at most 100 parameters and 1,000 metrics in a request."""


class MLflow:
    """A run of MLflow, which it finds by the tag ``jaxbrewer.run`` when the run resumes.

    Args:
        run: The run.
    """

    def __init__(self, run: TrackedRun):
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = run.name and self._client.search_runs(
            [experiment], f"tags.`{_TAG}` = '{run.name}'", max_results=1
        )
        if found:
            self._run = found[0]
            self._client.update_run(self._run.info.run_id, status="RUNNING")
        else:
            tags = {} if run.name is None else {_TAG: run.name}
            self._run = self._client.create_run(experiment, tags=tags, run_name=run.title)
        self._id = self._run.info.run_id
        self._written = set(self._run.data.params)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def write_settings(self, settings: Settings) -> None:
        """Writes the settings as parameters; MLflow's never change, so the first value counts."""
        from mlflow.entities import Param

        new = [Param(name, str(settings[name])) for name in settings if name not in self._written]
        for start in range(0, len(new), _AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + _AT_ONCE])
        self._written.update(settings)

    def write_scalars(self, rows: Rows) -> None:
        """Logs the scalars."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, step)
            for step, scalars in rows
            for name, value in scalars.items()
        ]
        for start in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[start : start + _AT_ONCE])

    def write_results(self, step: int, settings: Settings, scores: Mapping[str, float]) -> None:
        """Writes the settings as parameters and logs the scores."""
        self.write_settings(settings)
        self.write_scalars([(step, {f"test/{name}": score for name, score in scores.items()})])

    def close(self, *, failed: bool = False) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
