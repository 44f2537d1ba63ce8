"""The building blocks of all families, in Flax NNX.

Legend of axes: ``batch``; ``length``, the positions; ``width``, the hidden size; ``heads``;
``tokens`` = batch x length, the form in which hidden states pass through the dense layers: for
matrices XLA's CPU backend writes the weight gradient as a plain product, while for three axes it
transposes the result and takes half as long again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from .config import TransformerConfig


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The exact GELU, :math:`x \Phi(x)`, in at least float32.

    On a CPU, ``erf`` costs a third of the ``erfc`` in ``jax.nn.gelu``.

    Examples:
        >>> print(gelu(jnp.array([-1.0, 0.0, 1.0])))
        [-0.15865526  0.          0.8413447 ]

    References:
        Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * 0.5 * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


@jax.custom_jvp
def softmax(scores: Float[Array, "... keys"]) -> Float[Array, "... keys"]:
    r"""The softmax over the last axis, whose derivative is computed from the result alone.

    With :math:`p` the result, :math:`dp = p (dx - \sum p\, dx)`. What ``jax.nn.softmax`` keeps for
    its derivative by default, the exponentials and their sums, is neither kept nor read again.

    Examples:
        >>> print(softmax(jnp.array([0.0, 0.0])))
        [0.5 0.5]
    """
    exponentials = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)


@softmax.defjvp
def _softmax_jvp(
    primals: tuple[Float[Array, "... keys"]], tangents: tuple[Float[Array, "... keys"]]
) -> tuple[Array, Array]:
    (scores,), (tangent,) = primals, tangents
    result = softmax(scores)
    return result, result * (tangent - jnp.sum(result * tangent, axis=-1, keepdims=True))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": functools.partial(nnx.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nnx.gelu, approximate=True),
    "relu": nnx.relu,
    "silu": nnx.silu,
    "swish": nnx.silu,
    "tanh": jnp.tanh,
}

PADDING_SCORE = -1e30
"""Added to the attention scores of padded keys: finite, and any score vanishes beside it."""

Ids = Int[Array, "batch length"]
Mask = Shaped[Array, "batch length"]
Hidden = Float[Array, "batch length width"]
Tokens = Float[Array, "tokens width"]
Scores = Float[Array, "batch heads length length"]
Outputs = dict[str, Any]


class Embedding(nnx.Module):
    """A table of vectors; an id outside of it gives NaN."""

    def __init__(
        self, rows: int, config: TransformerConfig, *, rngs: nnx.Rngs, width: int | None = None
    ):
        init = nnx.initializers.normal(config.initializer_range)
        shape = (rows, config.hidden_size if width is None else width)
        self.embedding = nnx.Param(init(rngs.params(), shape, jnp.float32))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... width"]:
        """The vectors of ``ids``."""
        return jnp.take(self.embedding[...], ids, axis=0)


def dense(
    inputs: int, outputs: int, config: TransformerConfig, rngs: nnx.Rngs, *, use_bias: bool = True
) -> nnx.Linear:
    """A dense map with the initial weights of the encoder's config."""
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(inputs, outputs, kernel_init=init, use_bias=use_bias, rngs=rngs)


class LayerNorm(nnx.LayerNorm):
    """A layer norm that computes in at least float32 and returns the dtype of its input.

    So float32 weights between layers in half precision promote nothing after them. The variance is
    that of the centred values, as PyTorch's.
    """

    def __init__(self, width: int, epsilon: float, rngs: nnx.Rngs, *, use_bias: bool = True):
        super().__init__(
            width, epsilon=epsilon, use_fast_variance=False, use_bias=use_bias, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "... width"], *, mask: Array | None = None
    ) -> Float[Array, "... width"]:
        """``x``, normalized over its last axis."""
        return super().__call__(x, mask=mask).astype(x.dtype)


def split_heads(x: Tokens, batch: int, length: int, heads: int) -> Float[Array, "b l h d"]:
    """``[batch * length, width]`` as ``[batch, length, heads, width / heads]``."""
    return x.reshape(batch, length, heads, x.shape[-1] // heads)


def heads_first(x: Float[Array, "b l h d"]) -> Float[Array, "b h l d"]:
    """The heads before the positions, or after them again.

    The product of probabilities and values is computed in this form: XLA's CPU backend takes up to
    a third longer for a forward pass in which it transposes by itself.
    """
    return x.swapaxes(1, 2)


def attend(
    query: Float[Array, "batch length heads size"],
    key: Float[Array, "batch length heads size"],
    value: Float[Array, "batch length heads size"],
    bias: Float[Array, "..."],
    dropout: nnx.Dropout,
    *,
    scale: float | None = None,
) -> tuple[Tokens, Scores, Scores]:
    """Softmax attention.

    Args:
        query: The queries.
        key: The keys.
        value: The values.
        bias: Added to the scores; broadcasts against ``[batch, heads, length, length]``.
        dropout: Applied to the probabilities.
        scale: What divides the products; ``None`` for the square root of the head size.

    Returns:
        What each position gathers, ``[batch * length, width]``; the scores and the probabilities,
        float32 at least.
    """
    batch, length, heads, size = query.shape
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide)
    scores = scores / (size**0.5 if scale is None else scale) + bias.astype(wide)
    probabilities = softmax(scores)
    weights = dropout(probabilities).astype(query.dtype)
    context = heads_first(jnp.einsum("bhqk,bhkd->bhqd", weights, heads_first(value)))
    return context.reshape(batch * length, heads * size), scores, probabilities


def padding_bias(attention_mask: Mask | None, input_ids: Ids) -> Float[Array, "batch 1 1 length"]:
    """What attention adds to the scores: 0 for tokens, ``PADDING_SCORE`` for padding."""
    if attention_mask is None:
        attention_mask = jnp.ones_like(input_ids)
    padded = jnp.asarray(attention_mask)[:, None, None, :] == 0
    return jnp.where(padded, PADDING_SCORE, 0.0)


def run_layers(
    layers: Any, x: Hidden, *arguments: Any, keywords: Callable[[int], dict[str, Any]] | None = None
) -> Outputs:
    """Runs a stack of layers and keeps all hidden states, scores and probabilities.

    Args:
        layers: Each is called with ``[batch * length, width]`` and ``arguments``, and returns its
            output, attention scores and attention probabilities.
        x: The embeddings.
        arguments: Further arguments of every layer.
        keywords: Further keyword arguments of a layer, by its number.

    Returns:
        ``hidden_states``, ``attention_scores`` and ``attentions``, a tuple each.
    """
    shape = x.shape
    hidden, scores, probabilities = [x], [], []
    tokens = x.reshape(shape[0] * shape[1], shape[2])
    for number, layer in enumerate(layers):
        own = keywords(number) if keywords else {}
        tokens, layer_scores, layer_probabilities = layer(tokens, *arguments, **own)
        hidden.append(tokens.reshape(shape))
        scores.append(layer_scores)
        probabilities.append(layer_probabilities)
    return {
        "hidden_states": tuple(hidden),
        "attention_scores": tuple(scores),
        "attentions": tuple(probabilities),
    }
