"""The trained student from a run directory, without its optimizer or its teacher."""

import warnings
from pathlib import Path
from typing import Any

from ..configs import TrainingConfig
from ..errors import UsageError, escaped
from ..forward.model import PyTree
from ..json_files import is_there
from .checkpoint_record import DamagedError, refuse_changed_arrays
from .checkpoint_store import CHECKPOINTS, steps_in
from .directory import COMPLETED
from .logs import read_rows
from .orbax_files import read_record, read_unknown_part
from .retention import ranked


def best_step(directory: str | Path, config: TrainingConfig) -> int:
    """The step of the best checkpoint of a run by ``best_metric``; of equals, the earliest.

    Args:
        directory: A run's ``output_dir``.
        config: ``best_metric`` and ``best_mode``.

    Raises:
        UsageError: No checkpoint has the metric.
    """
    metric = str(config.best_metric)
    scores = {row["step"]: row[metric] for row in scores_of(directory) if metric in row}
    if not scores:
        raise UsageError(f"{directory} has no checkpoint with the metric {metric!r}.")
    return ranked(scores, config.best_mode)[0]


def scores_of(directory: str | Path) -> list[dict[str, Any]]:
    """The scores of every checkpoint of a run, with its ``step``, also of those not kept."""
    return read_rows(Path(directory) / COMPLETED)


def load_student(directory: str | Path, step: int | None = None) -> dict[str, PyTree]:
    """Loads the student's weights from a run.

    Args:
        directory: A run's ``output_dir``.
        step: The optimizer step after which they were saved; ``None`` takes the last checkpoint
            that can be read, and warns of damaged ones after it.

    Returns:
        ``{"params": ..., "state": ...}``, nested dicts of arrays on the default device.

    Raises:
        UsageError: There is no such checkpoint, or it is damaged.
    """
    root = Path(directory).absolute() / CHECKPOINTS
    if not is_there(root) or not root.is_dir():
        raise UsageError(f"{directory} holds no checkpoints of a run.")
    saved = steps_in(root)
    if not saved or (step is not None and step not in saved):
        raise UsageError(f"{directory} has no checkpoint of step {step}; it has {saved}.")
    for chosen in reversed(saved) if step is None else [step]:
        path = root / str(chosen)
        try:
            record = read_record(path)
            student = read_unknown_part(path, "student", record["arrays"])
            refuse_changed_arrays(record, {"student": student})
            return {"state": {}, **student}
        except DamagedError as error:
            message = f"The checkpoint of step {chosen} in {directory} is damaged: {error}."
            if step is not None:
                raise UsageError(message) from None
            warnings.warn(escaped(message), stacklevel=2)
    raise UsageError(f"{directory} has no checkpoint that can be read.")
