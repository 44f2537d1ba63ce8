"""Trackers, to which a training writes its settings and scalars: one module each."""

import importlib
import importlib.util
from collections.abc import Mapping

from ...configs import TrainingConfig
from ...errors import missing_extra
from .background import BackgroundWriter, warn_of_failure
from .tensorboard import TensorBoard
from .writer import Settings, Tracker
from .writer import TrackedRun as TrackedRun
from .writer import Writer as Writer

TRACKERS = {
    "mlflow": "mlflow.MLflow",
    "trackio": "trackio.Trackio",
    "wandb": "wandb.Wandb",
}
"""What ``TrainingConfig.trackers`` may name beside TensorBoard: a module here, and its class."""


def require_trackers(config: TrainingConfig) -> None:
    """Checks that the packages of the trackers are installed, without loading them.

    Raises:
        UsageError: One is missing; the message names the extra that installs it.
    """
    for name in config.trackers:
        if isinstance(name, str) and name in TRACKERS and importlib.util.find_spec(name) is None:
            raise missing_extra(name, name)


def open_trackers(config: TrainingConfig, run: TrackedRun) -> list[TensorBoard | BackgroundWriter]:
    """Opens the trackers of a training, in the one process that writes.

    TensorBoard's events are files of the run, so a directory that cannot be written ends the start,
    and a full disk loses nothing. Any other tracker may fail or hang at any time: a warning says so
    once, and the training continues.

    Args:
        config: ``log_dir`` and ``trackers``.
        run: What identifies the run.

    Raises:
        UsageError: ``log_dir`` cannot be written.
    """
    writers: list[TensorBoard | BackgroundWriter] = []
    if config.log_dir is not None:
        writers.append(TensorBoard(run))
    for given in config.trackers:
        if given == "tensorboard":
            continue
        name = given if isinstance(given, str) else type(given).__name__
        try:
            writer = _open(given, run) if isinstance(given, str) else given
        except Exception as error:
            warn_of_failure(name, error)
        else:
            writers.append(BackgroundWriter(name, writer))
    return writers


def write_results(
    config: TrainingConfig,
    run: TrackedRun,
    step: int,
    settings: Settings,
    scores: Mapping[str, float],
) -> None:
    """Writes the settings and test scores of a finished run to its trackers.

    Args:
        config: ``log_dir`` and ``trackers``.
        run: What identifies the run.
        step: Its last step.
        settings: Every field of the job, by dotted name.
        scores: The scores on the test examples, by metric.
    """
    for writer in open_trackers(config, run):
        writer.write_results(step, settings, scores)
        writer.close()


def _open(name: str, run: TrackedRun) -> Tracker:
    module, _, attribute = TRACKERS[name].partition(".")
    loaded = importlib.import_module(f".{module}", __package__)
    tracker: Tracker = getattr(loaded, attribute)(run)
    return tracker
