"""What the contract tests know of each loss: its inputs, and what padding means for them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxbrewer import losses

LENGTHS = np.array([6, 4, 1, 0])  # a full example, a padded one, a single position, an empty one
MASK = (np.arange(6) < LENGTHS[:, None]).astype(np.int32)
SHAPES = {"logits": (4, 6, 5), "attention": (4, 3, 6, 6), "hidden": (4, 6, 8), "pair": (4, 6, 8)}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A loss, and the kind of input it takes: a key of ``SHAPES``."""

    loss: Callable[..., Any]
    kind: str
    least: float | None = 0.0  # the value at equality; None: the teacher's entropy

    def __str__(self) -> str:
        return self.loss.__name__

    def inputs(self, seed: int = 0) -> tuple[Any, Any]:
        """Student and teacher, float32, padded as models pad."""
        rng = np.random.default_rng(seed)
        draw = functools.partial(rng.normal, size=SHAPES[self.kind])
        if self.kind == "pair":
            student, teacher = ([np.float32(draw()), np.float32(draw())] for _ in range(2))
            return student, teacher
        return tuple(self.padded(np.float32(draw()), -1e4) for _ in range(2))

    def padded(self, x: Any, fill: float, mask: np.ndarray = MASK) -> Any:
        """``x`` with ``fill`` at every number that belongs to padding."""
        if isinstance(x, list):
            return [self.padded(layer, fill, mask) for layer in x]
        return np.where(self.belongs(mask, x.ndim), x, np.asarray(fill, x.dtype))

    def belongs(self, mask: np.ndarray, ndim: int) -> np.ndarray:
        """Which numbers belong to valid positions, of a shape that broadcasts."""
        valid = mask != 0
        if self.kind == "attention":
            return (valid[:, :, None] & valid[:, None, :])[:, None]
        return valid.reshape(valid.shape + (1,) * (ndim - 2))

    @functools.cached_property
    def value_and_grad(self) -> Callable[..., Any]:
        """Compiled ``(student, teacher, mask) -> (value, gradient of the student)``."""
        program = jax.jit(jax.value_and_grad(lambda s, t, mask: self.loss(s, t, mask=mask)))
        return lambda *inputs: jax.device_get(program(*inputs))


SPECS = [
    Spec(losses.kd_ce_loss, "logits", least=None),
    Spec(losses.kd_mse_loss, "logits"),
    Spec(losses.att_mse_loss, "attention"),
    Spec(losses.att_mse_sum_loss, "attention"),
    Spec(losses.att_ce_loss, "attention", least=None),
    Spec(losses.att_ce_mean_loss, "attention", least=None),
    Spec(losses.hid_mse_loss, "hidden"),
    Spec(losses.cos_loss, "hidden"),
    Spec(losses.pkd_loss, "hidden"),
    Spec(losses.fsp_loss, "pair"),
    Spec(losses.mmd_loss, "pair"),
]
