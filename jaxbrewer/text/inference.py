"""Runs a model over encoded examples and keeps what a task needs of its outputs."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from ..forward.as_model import as_model
from ..forward.model import Model
from .loader import TextLoader
from .tasks import Predictions, Task
from .tokenize import Encoded


class Inference(NamedTuple):
    """What a model computed, and how fast.

    Attributes:
        predictions: What the task kept.
        rows_per_second: Speed of the model, without compilation.
    """

    predictions: Predictions
    rows_per_second: float


def run_model(
    task: Task[Any], model: Any, encoded: Encoded, *, teacher: Any = None, batch_size: int = 64
) -> Inference:
    """Runs a model in evaluation mode over all rows.

    Args:
        task: The task, which chooses what is kept.
        model: The model.
        encoded: The rows.
        teacher: A model to compare with, whose outputs the task finds in the batch under
            ``"teacher_outputs"``.
        batch_size: Rows per batch.

    Returns:
        The predictions in the order of the rows, and the speed.
    """
    models: list[Model] = [as_model(one) for one in (model, teacher) if one is not None]
    variables = [one.variables for one in models]

    @jax.jit
    def kept_of(variables: Any, batch: Any) -> Any:
        outputs, *outputs_T = [
            one.apply(own["params"], own["state"], batch, train=False)[0]
            for one, own in zip(models, variables, strict=True)
        ]
        if outputs_T:
            batch = {**batch, "teacher_outputs": outputs_T[0]}
        return task.keep(batch, outputs)

    loader = TextLoader(encoded, min(batch_size, len(encoded)), shuffle=False)
    programs: dict[tuple[int, ...], Any] = {}
    for batch in loader:
        del batch["example_id"]
        shape = batch["input_ids"].shape
        if shape not in programs:
            programs[shape] = kept_of.lower(variables, batch).compile()
    found: list[tuple[np.ndarray, np.ndarray, Any]] = []
    start = time.perf_counter()
    for batch in loader:
        rows = batch.pop("example_id")
        program = programs[batch["input_ids"].shape]
        kept = program(variables, batch)
        found.append((rows, batch["attention_mask"] != 0, kept))
    found = jax.device_get(found)
    seconds = time.perf_counter() - start
    return Inference(_in_order(found), len(encoded) / seconds)


def _in_order(found: list[tuple[np.ndarray, np.ndarray, Any]]) -> Predictions:
    """Joins batches; arrays of tokens lose their padding."""
    order = np.argsort(np.concatenate([rows for rows, _, _ in found]))

    def rows_of(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(kept[0][name]) for _, _, kept in found])[order]

    def tokens_of(name: str) -> np.ndarray:
        rows = [
            array[row_mask]
            for _, mask, kept in found
            for array, row_mask in zip(np.asarray(kept[1][name]), mask, strict=True)
        ]
        return np.concatenate([rows[number] for number in order])

    _, _, (by_row, by_token) = found[0]
    return Predictions(
        {name: rows_of(name) for name in by_row}, {name: tokens_of(name) for name in by_token}
    )
