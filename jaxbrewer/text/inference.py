"""Runs a model over encoded examples and keeps what a task needs of its outputs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ..forward.as_model import as_model
from ..forward.bfloat16_products import fast_on_cpu
from ..forward.model import Model
from .loader import TextLoader, choose_widths
from .tasks import Predictions, Task
from .tokenize import Encoded

Progress = Callable[[int, int], None]
"""Takes the number of rows that are done, and of all."""

_AHEAD = 2
"""Batches that are dispatched to the device before the host fetches the results of one."""


class Inference(NamedTuple):
    """What a model computed, and how fast.

    Attributes:
        predictions: What the task kept.
        rows_per_second: Speed of the model, without compilation.
    """

    predictions: Predictions
    rows_per_second: float


class ModelRunner:
    """Runs models of one architecture over the same rows; each shape of batches is compiled once.

    Args:
        task: The task, which chooses what is kept.
        encoded: The rows.
        batch_size: Rows per batch.
        num_widths: Maximum number of widths of batches.
    """

    def __init__(
        self, task: Task[Any], encoded: Encoded, *, batch_size: int = 64, num_widths: int = 4
    ):
        self._task, self._encoded = task, encoded
        size = min(batch_size, len(encoded))
        self._loader = TextLoader(encoded, size, shuffle=False, num_widths=num_widths)
        self._programs: dict[tuple[int, ...], Any] = {}

    def __call__(
        self, model: Any, teacher: Any = None, *, progress: Progress | None = None
    ) -> Inference:
        """Runs a model in evaluation mode.

        Args:
            model: The model.
            teacher: A model to compare with, whose outputs the task finds in the batch under
                ``"teacher_outputs"``.
            progress: Called after each batch with the number of rows so far, and of all.

        Returns:
            The predictions in the order of the rows, and the speed.
        """
        wrapped, other = as_model(model), None if teacher is None else as_model(teacher)
        variables, more = wrapped.variables, () if other is None else (other.variables,)
        if not self._programs:
            self._compile(make_forward(self._task, wrapped, other), variables, more)
        found: list[tuple[np.ndarray, np.ndarray, Any]] = []
        done, start = 0, time.perf_counter()
        for batch in self._loader:
            rows = batch.pop("example_id")
            kept = self._programs[batch["input_ids"].shape](variables, batch, *more)
            found.append((rows, batch["attention_mask"] != 0, kept))
            if len(found) > _AHEAD:  # the device has work while the host waits
                found[-_AHEAD - 1] = jax.device_get(found[-_AHEAD - 1])
                done += len(found[-_AHEAD - 1][0])
                if progress is not None:
                    progress(done, len(self._encoded))
        found = jax.device_get(found)
        if progress is not None:
            progress(len(self._encoded), len(self._encoded))
        seconds = time.perf_counter() - start
        return Inference(_in_order(found), len(self._encoded) / seconds)

    def _compile(self, forward: Any, variables: Any, more: tuple[Any, ...]) -> None:
        for batch in self._loader:
            del batch["example_id"]
            shape = batch["input_ids"].shape
            if shape not in self._programs:
                self._programs[shape] = forward.lower(variables, batch, *more).compile()
                jax.block_until_ready(self._programs[shape](variables, batch, *more))


def run_model(
    task: Task[Any],
    model: Any,
    encoded: Encoded,
    *,
    teacher: Any = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Inference:
    """Runs a model once over all rows; the arguments of :class:`ModelRunner`."""
    return ModelRunner(task, encoded, batch_size=batch_size)(model, teacher, progress=progress)


def measure_latency(
    task: Task[Any],
    model: Any,
    encoded: Encoded,
    *,
    rows: int = 100,
    seconds: float = 5.0,
    seed: int = 0,
) -> Float[np.ndarray, " rows"]:
    """Times a model on single rows, from tokens in the host's memory to results there.

    Rows are padded to one of at most four widths. Compilation and a first run of each program are
    not timed.

    Args:
        task: The task, which chooses what is kept.
        model: The model.
        encoded: The rows.
        rows: Maximum number of rows, drawn at random.
        seconds: Time after which no more rows are timed, once there are ten.
        seed: Seed of the draw.

    Returns:
        Seconds for each row.
    """
    wrapped = as_model(model)
    function = make_forward(task, wrapped)
    draw = np.random.default_rng(seed)
    chosen = draw.choice(len(encoded), min(rows, len(encoded)), replace=False)
    lengths = encoded.lengths[chosen]
    widths = np.array(choose_widths(lengths, 4, encoded.max_length))
    places = np.searchsorted(widths, lengths)
    batches = [
        encoded.batch([row], int(widths[place])) for row, place in zip(chosen, places, strict=True)
    ]
    for place in np.unique(places, return_index=True)[1]:
        jax.block_until_ready(function(wrapped.variables, batches[place]))
    found: list[float] = []
    for batch in batches:
        start = time.perf_counter()
        jax.device_get(function(wrapped.variables, batch))
        found.append(time.perf_counter() - start)
        if sum(found) > seconds and len(found) >= 10:
            break
    return np.array(found)


def run_in_shapes(
    forward: Any, variables: Any, encoded: Encoded, *, batch_size: int, longest: int
) -> Predictions:
    """Runs a compiled function over all rows in batches of few shapes.

    A batch is padded to a power of two, at least 16 tokens and at most ``longest``, and to a power
    of two of rows, at most ``batch_size``. So calls with other rows use the same programs.

    Args:
        forward: The function, from :func:`make_forward`.
        variables: The variables of the model.
        encoded: The rows.
        batch_size: Rows per batch.
        longest: Maximum number of tokens in a row.

    Returns:
        The predictions in the order of the rows.
    """
    order, lengths, found = np.argsort(encoded.lengths, kind="stable"), encoded.lengths, []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = min(max(_power_of_two(int(lengths[rows].max())), 16), max(longest, lengths.max()))
        size = min(_power_of_two(len(rows)), batch_size)
        batch = encoded.batch(np.resize(rows, size), int(width))
        found.append((rows, batch["attention_mask"] != 0, forward(variables, batch)))
    return _in_order([_first_rows(*one) for one in jax.device_get(found)])


def _first_rows(rows: np.ndarray, mask: np.ndarray, kept: Any) -> tuple[Any, Any, Any]:
    """A batch without the rows that pad it."""
    count = len(rows)
    return rows, mask[:count], jax.tree.map(lambda array: array[:count], kept)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number.

    Examples:
        >>> _power_of_two(1), _power_of_two(16), _power_of_two(17)
        (1, 16, 32)
    """
    return 1 << (number - 1).bit_length()


def make_forward(task: Task[Any], model: Any, teacher: Any = None) -> Any:
    """A compiled function of a model's variables and a batch that returns what the task keeps.

    Args:
        task: The task.
        model: The model.
        teacher: A model to compare with: the function then takes the variables of both, and the
            task finds its outputs in the batch, as ``"teacher_outputs"``.
    """
    wrapped: Model = as_model(model)
    other: Model | None = None if teacher is None else as_model(teacher)

    @jax.jit
    @fast_on_cpu
    def forward(variables: Any, batch: Any, teacher_variables: Any = None) -> Any:
        outputs = _outputs(wrapped, variables, batch)
        if other is not None:
            batch = {**batch, "teacher_outputs": _outputs(other, teacher_variables, batch)}
        return task.keep(batch, outputs)

    return forward


def _outputs(model: Model, variables: Any, batch: Any) -> Any:
    return model.apply(variables["params"], variables["state"], batch, train=False)[0]


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
