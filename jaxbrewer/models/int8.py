"""Frozen models whose kernels are 8-bit integers.

Each output of a dense map has a scale of its own; inputs, products and sums keep the type of the
activations. Embeddings, norms, biases and heads are not quantised.

References:
    Dettmers et al., 2022, section 2, https://arxiv.org/abs/2208.07339
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8

from ..losses import LogitsOf
from .dense_maps import DenseMap, replaced


class Int8Linear(nnx.Module):
    """A dense map with a kernel of integers: ``(x @ kernel) * kernel_scale + bias``."""

    def __init__(self, kernel: Any, scale: Any, bias: Any):
        self.kernel = nnx.Param(kernel)
        self.kernel_scale = nnx.Param(scale)
        self.bias = bias

    def __call__(self, x: Float[Array, "*axes inputs"]) -> Float[Array, "*axes outputs"]:
        """The map of each row."""
        last = (1,) * (x.ndim - 1) + (-1,)
        y = jnp.einsum("...i,io->...o", x, self.kernel[...].astype(x.dtype))
        y = y * self.kernel_scale[...].astype(x.dtype).reshape(last)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype).reshape(last)


@jax.jit
def int8_kernel(
    kernel: Float[Array, "inputs outputs"],
) -> tuple[Int8[Array, "inputs outputs"], Float[Array, " outputs"]]:
    """A kernel as integers from -127 to 127, and the scale of each output.

    Examples:
        >>> kernel, scale = int8_kernel(jnp.array([[1.0, 0.0], [-0.5, 0.0]]))
        >>> kernel.tolist(), scale.tolist()
        ([[127, 0], [-64, 0]], [0.007874015718698502, 0.0])
    """
    wide = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=0) / 127
    steps = wide / jnp.where(scale > 0, scale, 1)[None]
    return jnp.round(steps).astype(jnp.int8), scale


def quantize_int8(model: Any) -> Any:
    """A copy of a model with the kernels of all layers as 8-bit integers; for frozen teachers.

    ``load(..., quantize="int8")`` does the same to one tensor after the other as they are read.

    Args:
        model: The model, which does not change.

    Examples:
        >>> from jaxbrewer.models import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=12)
        >>> teacher = quantize_int8(LlamaForCausalLM(config, rngs=nnx.Rngs(0)))
        >>> teacher.model.layers[0].mlp.up_proj.kernel.dtype.name
        'int8'
    """
    return replaced(model, _quantized)


def quantization_error(model: Any, quantized: Any, **inputs: Any) -> float:
    """The largest difference of two models' logits, relative to the largest logit.

    Args:
        model: The model.
        quantized: The same, quantised.
        inputs: The inputs of both: ``input_ids``, ``attention_mask``.

    Examples:
        >>> from jaxbrewer.models import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=12)
        >>> model = LlamaForCausalLM(config, rngs=nnx.Rngs(0))
        >>> quantization_error(model, quantize_int8(model), input_ids=jnp.ones((1, 4), int)) < 0.02
        True
    """
    outputs = [jax.jit(lambda model: model(**inputs))(each) for each in (model, quantized)]
    names = [name for name in outputs[0] if name.endswith("logits")]
    return max(_difference(outputs[0][name], outputs[1][name]) for name in names)


def _quantized(found: DenseMap) -> Int8Linear:
    kernel, scale = int8_kernel(found.module.kernel[...])
    return Int8Linear(kernel, scale, found.module.bias)


def _difference(exact: Any, other: Any) -> float:
    exact, other = (x.logits() if isinstance(x, LogitsOf) else x for x in (exact, other))
    return float(jnp.max(jnp.abs(other - exact)) / jnp.max(jnp.abs(exact)))
