"""The dtypes in which weights are stored and computed with, and the loss scale of float16.

``TrainingConfig.fp16`` and ``fp16_opt_level`` mean what they mean in Apex; ``half`` is the
``half_dtype``:

=====  ============  ======================  ==================  ==========================
level  stored        weights a model sees    matrix products     loss scale (float16 only)
=====  ============  ======================  ==================  ==========================
O0     as given      as given                as given            none
O1     float32       float32                 half                dynamic
O2     float32       half, norms float32     half                dynamic
O3     half          half                    half                none
=====  ============  ======================  ==================  ==========================

In O1 all operations but the products, including softmax and norms, are float32
(:mod:`jaxbrewer.forward.autocast`). In O2 a norm computes in float32 because its weights are
float32, and so do the operations after it until one casts back; products are always half. In all
levels but O0, adaptors and losses see float32 outputs.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..configs import TrainingConfig
from ..errors import UsageError
from .autocast import autocast

PyTree = Any

NORMS = re.compile(r"norm|(^|[^a-z])(ln|bn)([^a-z]|$)", re.IGNORECASE)
"""Matches the names of norms: ``LayerNorm_0``, ``norm1``, ``ln_f``, ``bn2``."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """The dtypes of a training; ``None`` keeps the user's.

    Attributes:
        param: Dtype in which weights and their optimizer state are stored.
        compute: Dtype of the weights and inputs that a model sees.
        products: Dtype of the model's matrix products and convolutions of float32 arrays.
        output: Dtype of the outputs that adaptors see.
        keep_norm_fp32: Whether a model sees the weights of norms in the stored dtype.
        loss_scaling: Whether to scale the loss dynamically.
        teacher_products: Dtype of the teacher's products, whatever the other fields say of the
            student; ``None`` for the same policy as the student's.

    Examples:
        >>> half = Policy(compute=jnp.bfloat16)
        >>> half.cast_to_compute({"w": jnp.ones(2), "ids": jnp.ones(2, jnp.int32)})["w"].dtype
        dtype(bfloat16)
    """

    param: Any = None
    compute: Any = None
    products: Any = None
    output: Any = None
    keep_norm_fp32: bool = False
    loss_scaling: bool = False
    teacher_products: Any = None

    def of_teacher(self) -> "Policy":
        """The policy of the teacher.

        Examples:
            >>> print(Policy(teacher_products=jnp.bfloat16).of_teacher().products.__name__)
            bfloat16
        """
        if self.teacher_products is None:
            return self
        return Policy(products=self.teacher_products, output=jnp.float32)

    def cast_to_param(self, tree: PyTree) -> PyTree:
        """Casts floating-point leaves to the dtype in which weights are stored."""
        return cast_floating(tree, self.param)

    def cast_to_compute(self, tree: PyTree) -> PyTree:
        """Casts floating-point leaves to the compute dtype."""
        return cast_floating(tree, self.compute)

    def cast_weights(self, params: PyTree) -> PyTree:
        """Casts weights to the dtypes that a model sees.

        Examples:
            >>> level = policy_of(TrainingConfig(fp16=True, fp16_opt_level="O2"))
            >>> seen = level.cast_weights({"ln_1": {"scale": jnp.ones(2)}, "w": jnp.ones(2)})
            >>> print(seen["ln_1"]["scale"].dtype, seen["w"].dtype)
            float32 float16
        """
        if not self.keep_norm_fp32:
            return self.cast_to_compute(params)
        return _cast_all_but_norms(params, self.compute)

    def run(self, model: Callable[..., tuple[PyTree, PyTree]], *args: PyTree) -> Any:
        """Calls ``model(*args) -> (outputs, new_state)`` with its products and outputs cast.

        Raises:
            UsageError: The outputs hold leaves that are not arrays.
        """
        if self.products is None and self.output is None:
            return model(*args)

        def checked(*args: PyTree) -> tuple[PyTree, PyTree]:
            outputs, new_state = model(*args)
            for leaf in jax.tree.leaves(outputs):
                if not isinstance(leaf, (jax.Array, float, int)) and not hasattr(leaf, "dtype"):
                    raise UsageError(
                        f"A model returned {type(leaf).__name__}: half precision needs outputs "
                        "that are arrays, or dicts, lists and registered dataclasses of arrays."
                    )
            return outputs, new_state

        cast = checked if self.products is None else autocast(checked, self.products)
        outputs, new_state = cast(*args)
        return cast_floating(outputs, self.output), new_state


AS_GIVEN = Policy()
"""Keeps every dtype."""


def policy_of(config: TrainingConfig) -> Policy:
    """The policy of ``fp16``, ``fp16_opt_level``, ``half_dtype`` and ``teacher_products``."""
    teacher = config.teacher_products and jnp.dtype(config.teacher_products)
    return dataclasses.replace(_policy_of_level(config), teacher_products=teacher)


def _policy_of_level(config: TrainingConfig) -> Policy:
    if not config.fp16 or config.fp16_opt_level == "O0":
        return AS_GIVEN
    half = jnp.dtype(config.half_dtype)
    if config.fp16_opt_level == "O3":
        return Policy(param=half, compute=half, output=jnp.float32)
    masters = Policy(
        param=jnp.float32,
        products=half,
        output=jnp.float32,
        loss_scaling=half == jnp.float16,
    )
    if config.fp16_opt_level == "O1":
        return masters
    return dataclasses.replace(masters, compute=half, keep_norm_fp32=True)


def cast_floating(tree: PyTree, dtype: Any) -> PyTree:
    """``tree`` with its floating-point arrays in ``dtype``; unchanged for ``None``."""
    if dtype is None:
        return tree

    def cast(leaf: Any) -> Any:
        is_floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if is_floating else leaf

    return jax.tree.map(cast, tree)


def _cast_all_but_norms(params: PyTree, dtype: Any) -> PyTree:
    """Recognizes norms by their name, or by a parameter ``scale``, as Flax's have."""
    if not isinstance(params, Mapping):
        return cast_floating(params, dtype)
    return {
        name: value
        if NORMS.search(str(name)) or (isinstance(value, Mapping) and "scale" in value)
        else _cast_all_but_norms(value, dtype)
        for name, value in params.items()
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """Dynamic loss scale: doubled after 2,000 finite steps, halved at an overflow.

    Attributes:
        scale: Factor of the loss, float32.
        good_steps: Steps since the last change, int32.
        skipped: Steps skipped so far, int32.
    """

    scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array

    GROWTH_INTERVAL = 2000
    LARGEST, SMALLEST = 2.0**24, 1.0

    @classmethod
    def start(cls, scale: float = 2.0**15) -> "LossScale":
        """The state before the first step."""
        return cls(jnp.float32(scale), jnp.int32(0), jnp.int32(0))

    def after(self, finite: jax.Array) -> "LossScale":
        """The state after a step whose gradients were all finite, or not."""
        grown = self.good_steps + 1 >= self.GROWTH_INTERVAL
        raised = jnp.where(grown, jnp.minimum(self.scale * 2, self.LARGEST), self.scale)
        return LossScale(
            scale=jnp.where(finite, raised, jnp.maximum(self.scale / 2, self.SMALLEST)),
            good_steps=jnp.where(finite & ~grown, self.good_steps + 1, 0),
            skipped=self.skipped + jnp.where(finite, 0, 1),
        )
