"""The encoder of a BERT, in Flax NNX.

Modules and attributes are named as in Hugging Face's ``transformers``, so the path of a weight
here, ``bert.encoder.layer.0.attention.self.query.kernel``, is its name in a file there
(``kernel``, ``scale`` and ``embedding`` are called ``weight``).

Legend of axes: ``batch``; ``length``, the positions; ``width``, the hidden size; ``heads``;
``tokens`` = batch x length, the form in which hidden states go through the dense layers: for
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

from .config import BertConfig


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The exact GELU, :math:`x \Phi(x)`, in float32 at least.

    On a CPU, ``erf`` costs a third of the ``erfc`` in ``jax.nn.gelu``.

    Examples:
        >>> print(gelu(jnp.array([-1.0, 0.0, 1.0])))
        [-0.15865526  0.          0.8413447 ]

    References:
        Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * 0.5 * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


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
"""Added to the attention scores of padded keys: finite, and no score is seen beside it."""

Ids = Int[Array, "batch length"]
Tokens = Float[Array, "tokens width"]
Outputs = dict[str, Any]


class Embedding(nnx.Module):
    """A table of vectors; an id outside of it gives NaN."""

    def __init__(self, rows: int, config: BertConfig, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.initializer_range)
        self.embedding = nnx.Param(init(rngs.params(), (rows, config.hidden_size), jnp.float32))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... width"]:
        """The vectors of ``ids``."""
        return jnp.take(self.embedding[...], ids, axis=0)


def dense(inputs: int, outputs: int, config: BertConfig, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense map with BERT's initial weights."""
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)


class LayerNorm(nnx.LayerNorm):
    """A layer norm that computes in float32 at least and returns the dtype it was given.

    So float32 weights between layers in half precision promote nothing after them. The variance is
    that of the centred values, as PyTorch's.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "... width"], *, mask: Array | None = None
    ) -> Float[Array, "... width"]:
        """``x``, normed over its last axis."""
        return super().__call__(x, mask=mask).astype(x.dtype)


class BertEmbeddings(nnx.Module):
    """Words, token types and positions, added up and normed."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.word_embeddings = Embedding(config.vocab_size, config, rngs=rngs)
        self.position_embeddings = Embedding(config.max_position_embeddings, config, rngs=rngs)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config, rngs=rngs)
        self.LayerNorm = LayerNorm(config, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(
        self, input_ids: Ids, token_type_ids: Ids | None, position_ids: Ids | None
    ) -> Float[Array, "batch length width"]:
        """The vectors that the first layer reads."""
        # What is not given is looked up once, not once per token.
        types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
        positions = jnp.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        total = self.word_embeddings(input_ids) + self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(total + self.position_embeddings(positions)))


class BertSelfAttention(nnx.Module):
    """Attention of every position to all positions of its own sequence."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (
            dense(config.hidden_size, config.hidden_size, config, rngs) for _ in range(3)
        )
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)

    def __call__(
        self, x: Tokens, bias: Float[Array, "batch 1 1 length"]
    ) -> tuple[
        Tokens, Float[Array, "batch heads length length"], Float[Array, "batch heads length length"]
    ]:
        """What each position gathers, the scores, and the probabilities (both float32 at least)."""
        batch, length = bias.shape[0], bias.shape[-1]
        query, key, value = (
            project(x).reshape(batch, length, self.heads, -1)
            for project in (self.query, self.key, self.value)
        )
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide)
        scores = scores / query.shape[-1] ** 0.5 + bias.astype(wide)
        probabilities = jax.nn.softmax(scores)
        weights = self.dropout(probabilities).astype(x.dtype)
        context = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return context.reshape(x.shape), scores, probabilities


class BertOutput(nnx.Module):
    """A dense map added to what came in, and normed."""

    def __init__(self, inputs: int, config: BertConfig, *, rngs: nnx.Rngs):
        self.dense = dense(inputs, config.hidden_size, config, rngs)
        self.LayerNorm = LayerNorm(config, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, x: Float[Array, "tokens inputs"], residual: Tokens) -> Tokens:
        """``LayerNorm(residual + dense(x))``."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nnx.Module):
    """Self-attention and its output map."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.self = BertSelfAttention(config, rngs=rngs)
        self.output = BertOutput(config.hidden_size, config, rngs=rngs)

    def __call__(self, x: Tokens, bias: Array) -> tuple[Tokens, Array, Array]:
        """The block's output, the scores and the probabilities."""
        context, scores, probabilities = self.self(x, bias)
        return self.output(context, x), scores, probabilities


class BertIntermediate(nnx.Module):
    """The first dense map of the feed-forward block, and its activation."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.dense = dense(config.hidden_size, config.intermediate_size, config, rngs)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Tokens) -> Float[Array, "tokens intermediate"]:
        """``activation(dense(x))``."""
        return self.activation(self.dense(x))


class BertLayer(nnx.Module):
    """Attention, then the feed-forward block."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.attention = BertAttention(config, rngs=rngs)
        self.intermediate = BertIntermediate(config, rngs=rngs)
        self.output = BertOutput(config.intermediate_size, config, rngs=rngs)

    def __call__(self, x: Tokens, bias: Array) -> tuple[Tokens, Array, Array]:
        """The layer's output, the scores and the probabilities."""
        x, scores, probabilities = self.attention(x, bias)
        return self.output(self.intermediate(x), x), scores, probabilities


class BertEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.layer = nnx.List(
            [BertLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(self, x: Float[Array, "batch length width"], bias: Array) -> Outputs:
        """All hidden states, scores and probabilities."""
        shape = x.shape
        hidden, scores, probabilities = [x], [], []
        tokens = x.reshape(-1, shape[-1])
        for layer in self.layer:
            tokens, layer_scores, layer_probabilities = layer(tokens, bias)
            hidden.append(tokens.reshape(shape))
            scores.append(layer_scores)
            probabilities.append(layer_probabilities)
        return {
            "hidden_states": tuple(hidden),
            "attention_scores": tuple(scores),
            "attentions": tuple(probabilities),
        }


class BertPooler(nnx.Module):
    """The first position through a dense map and tanh."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.dense = dense(config.hidden_size, config.hidden_size, config, rngs)

    def __call__(self, hidden: Float[Array, "batch length width"]) -> Float[Array, "batch width"]:
        """``tanh(dense(hidden[:, 0]))``."""
        return jnp.tanh(self.dense(hidden[:, 0]))


class BertModel(nnx.Module):
    """Embeddings, encoder and, where the head reads one, a pooler."""

    def __init__(self, config: BertConfig, *, pooler: bool, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, rngs=rngs)
        self.encoder = BertEncoder(config, rngs=rngs)
        if pooler:
            self.pooler = BertPooler(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Shaped[Array, "batch length"] | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """All hidden states, scores and probabilities."""
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        padded = jnp.asarray(attention_mask)[:, None, None, :] == 0
        bias = jnp.where(padded, PADDING_SCORE, 0.0)
        return self.encoder(self.embeddings(input_ids, token_type_ids, position_ids), bias)
