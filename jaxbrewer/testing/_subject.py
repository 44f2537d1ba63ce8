"""A loss that is being checked, and batches to check it on."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..losses import Mean

Batch = dict[str, Any]
"""``student``, ``teacher``, and where the loss takes them ``mask`` and ``labels``."""

SHAPES = {"logits": (4, 6, 5), "hidden": (4, 6, 8), "attention": (4, 3, 6, 6), "pair": (4, 6, 8)}
LENGTHS = np.array([6, 4, 1, 0])  # a full example, a padded one, a single position, an empty one
MASK = (np.arange(6) < LENGTHS[:, None]).astype(np.int32)
LABELS = np.array(
    [[0, 1, 2, 3, 4, 0], [3, -100, 1, 4, 2, 2], [2, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32
)
TEMPERATURE = np.float32(2)
PADDING = {"logits": 3.0, "hidden": 3.0, "attention": -50.0, "pair": 3.0}
"""What padding holds: anything, but for scores what makes a softmax pass it over."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A loss, what it takes, and what is claimed of it; see :func:`check_loss`."""

    loss: Callable[..., Any]
    kind: str
    parameters: Mapping[str, Any]
    floor: Any
    temperature_power: float | None
    widths: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return getattr(self.loss, "__name__", repr(self.loss))

    @functools.cached_property
    def sum_and_count(self) -> Callable[..., Any]:
        return getattr(self.loss, "sum_and_count", self.loss)

    @functools.cached_property
    def _takes(self) -> list[str]:
        return list(inspect.signature(self.sum_and_count).parameters)

    def takes(self, argument: str) -> bool:
        if argument == "temperature":  # the third argument of a loss between logits
            given = [name for name in self._takes[2:3] if name != "mask"]
            return self.kind == "logits" and bool(given)
        return argument in self._takes

    @property
    def has_equal_widths(self) -> bool:
        return self.widths is None or self.widths[0] == self.widths[1]

    @functools.cached_property
    def has_parts(self) -> bool:
        """Whether it returns sums and counts."""
        return isinstance(jax.eval_shape(self.evaluate, self.batch()), Mean)

    def evaluate(self, batch: Batch, temperature: Any = TEMPERATURE) -> Any:
        """What the loss returns: a :class:`Mean` if it can, else a scalar."""
        given = (temperature,) if self.takes("temperature") else ()
        named = {key: batch[key] for key in ("mask", "labels") if batch.get(key) is not None}
        return self.sum_and_count(
            batch["student"], batch["teacher"], *given, **self.parameters, **named
        )

    def scalar(self, batch: Batch, temperature: Any = TEMPERATURE) -> jax.Array:
        result = self.evaluate(batch, temperature)
        return result.value() if isinstance(result, Mean) else result

    @functools.cached_property
    def value(self) -> Callable[..., Any]:
        """Compiled ``(batch, [temperature]) -> scalar``."""
        program = jax.jit(self.scalar)
        return lambda *args: jax.device_get(program(*args))

    @functools.cached_property
    def parts(self) -> Callable[..., Any]:
        """Compiled ``batch -> Mean``."""
        program = jax.jit(self.evaluate)
        return lambda *args: jax.device_get(program(*args))

    @functools.cached_property
    def value_and_grad(self) -> Callable[..., Any]:
        """Compiled ``(batch, [temperature]) -> (scalar, gradient of the student)``."""

        def of_student(student: Any, rest: Batch, temperature: Any) -> jax.Array:
            return self.scalar({**rest, "student": student}, temperature)

        program = jax.jit(jax.value_and_grad(of_student))

        def call(batch: Batch, temperature: Any = TEMPERATURE) -> Any:
            rest = {key: value for key, value in batch.items() if key != "student"}
            return jax.device_get(program(batch["student"], rest, temperature))

        return call

    def batch(self, seed: int = 0) -> Batch:
        """A batch in float32 whose padding holds ``PADDING``."""
        rng, shape = np.random.default_rng(seed), SHAPES[self.kind]

        def draw(width: int) -> Any:
            layers = [np.float32(rng.normal(size=(*shape[:-1], width))) for _ in range(2)]
            return layers if self.kind == "pair" else layers[0]

        width_S, width_T = self.widths or (shape[-1], shape[-1])
        batch: Batch = {"student": draw(width_S), "teacher": draw(width_T)}
        if self.takes("labels"):
            batch["labels"] = LABELS
        if self.takes("mask"):
            batch["mask"] = MASK
            return self.filled(batch, PADDING[self.kind])
        return batch

    def filled(self, batch: Batch, fill: float) -> Batch:
        """The batch with ``fill`` at every number that belongs to padding."""

        def fill_in(x: np.ndarray) -> np.ndarray:
            return np.where(self.belongs(batch["mask"], x.ndim), x, np.asarray(fill, x.dtype))

        return self.mapped(fill_in, batch)

    def belongs(self, mask: np.ndarray, ndim: int) -> np.ndarray:
        """Which numbers belong to valid positions, of a shape that broadcasts."""
        valid = np.asarray(mask) != 0
        if self.kind == "attention":
            return (valid[:, :, None] & valid[:, None, :])[:, None]
        return valid.reshape(valid.shape + (1,) * (ndim - 2))

    def lengthened(self, batch: Batch, positions: int = 2) -> Batch:
        """The batch with more padding."""
        axes = (2, 3) if self.kind == "attention" else (1,)

        def extend(x: np.ndarray) -> np.ndarray:
            widths = [(0, positions if axis in axes else 0) for axis in range(x.ndim)]
            return np.pad(x, widths, constant_values=PADDING[self.kind])

        longer = self.mapped(extend, batch)
        for key in ("mask", "labels"):
            if key in batch:
                longer[key] = np.pad(batch[key], ((0, 0), (0, positions)))
        return longer

    @staticmethod
    def mapped(function: Callable[[Any], Any], batch: Batch) -> Batch:
        """The batch with ``function`` applied to the arrays of student and teacher."""
        models = {key: jax.tree.map(function, batch[key]) for key in ("student", "teacher")}
        return {**batch, **models}

    @staticmethod
    def rows(batch: Batch, rows: Any) -> Batch:
        """Some examples of the batch."""
        chosen: Batch = jax.tree.map(lambda x: x[rows], batch)
        return chosen

    @staticmethod
    def as_dtype(batch: Batch, dtype: Any) -> Batch:
        return Subject.mapped(lambda x: jnp.asarray(x, dtype), batch)
