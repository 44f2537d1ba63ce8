"""In which dtypes weights are kept and computed with, and the loss scale that float16 needs.

``TrainingConfig.fp16`` and ``fp16_opt_level`` mean what they mean in Apex, as far as a library can
say it without rewriting the user's layers:

=====  ==========  ==========  ============================================
level  weights     compute     loss scale (float16 only)
=====  ==========  ==========  ============================================
O0     float32     float32     none
O1     float32     half        dynamic
O2     float32     half        dynamic (the float32 weights are the masters)
O3     half        half        none
=====  ==========  ==========  ============================================

O1 and O2 coincide here: Flax's norms reduce in float32 in either, losses always do, and the
weights that are cast are those of the whole model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .configs import TrainingConfig

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Policy:
    """Dtypes of weights and compute; ``None`` leaves the user's as they are.

    Examples:
        >>> half = Policy(compute=jnp.bfloat16)
        >>> half.cast_to_compute({"w": jnp.ones(2), "ids": jnp.ones(2, jnp.int32)})["w"].dtype
        dtype(bfloat16)
    """

    param: Any = None
    compute: Any = None
    loss_scaling: bool = False

    def cast_to_compute(self, tree: PyTree) -> PyTree:
        """Floating-point leaves in the compute dtype; the others as they are."""
        return cast_floating(tree, self.compute)

    def cast_to_param(self, tree: PyTree) -> PyTree:
        """Floating-point leaves in the dtype of the weights."""
        return cast_floating(tree, self.param)


AS_GIVEN = Policy()
"""Leaves every dtype as it is."""


def policy_of(config: TrainingConfig) -> Policy:
    """The policy that ``fp16``, ``fp16_opt_level`` and ``half_dtype`` describe."""
    if not config.fp16 or config.fp16_opt_level == "O0":
        return AS_GIVEN
    half = jnp.dtype(config.half_dtype)
    if config.fp16_opt_level == "O3":
        return Policy(param=half, compute=half)
    return Policy(param=jnp.float32, compute=half, loss_scaling=half == jnp.float16)


def cast_floating(tree: PyTree, dtype: Any) -> PyTree:
    """``tree`` with its floating-point arrays in ``dtype``; unchanged for ``None``."""
    if dtype is None:
        return tree

    def cast(leaf: Any) -> Any:
        is_floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if is_floating else leaf

    return jax.tree.map(cast, tree)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """Dynamic loss scale: doubled after 2,000 good steps, halved at an overflow.

    Attributes:
        scale: Factor of the loss, float32.
        good_steps: Steps since the last change, int32.
        skipped: Steps skipped so far, int32.
    """

    scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array

    GROWTH_INTERVAL = 2000
    LARGEST = 2.0**24

    @classmethod
    def start(cls, scale: float = 2.0**15) -> "LossScale":
        """The state before the first step."""
        return cls(jnp.float32(scale), jnp.int32(0), jnp.int32(0))

    def after(self, finite: jax.Array) -> "LossScale":
        """The state after a step whose gradients were all finite, or not."""
        grown = self.good_steps + 1 >= self.GROWTH_INTERVAL
        raised = jnp.where(grown, jnp.minimum(self.scale * 2, self.LARGEST), self.scale)
        return LossScale(
            scale=jnp.where(finite, raised, jnp.maximum(self.scale / 2, 1.0)),
            good_steps=jnp.where(finite & ~grown, self.good_steps + 1, 0),
            skipped=self.skipped + jnp.where(finite, 0, 1),
        )
