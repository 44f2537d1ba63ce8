"""The Llama shape: RMS norms, rotary positions, grouped queries, a gated feed-forward block.

The families that share it (Mistral, Qwen, Gemma) have a config and a row of their own.

References:
    Touvron et al., 2023, https://arxiv.org/abs/2302.13971
    Grouped queries: Ainslie et al., 2023, https://arxiv.org/abs/2305.13245
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .causal_attention import Gathered, LayerCache, View, causal_attention
from .causal_lm import CausalLM
from .decoder_config import DecoderConfig
from .families import Family
from .layers import ACTIVATIONS, Embedding, Hidden, Ids, Tokens, dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """Sizes and settings of a Llama (1 to 3) or SmolLM2; the defaults are those of Llama-7B.

    Attributes:
        mlp_bias: Whether the feed-forward maps have a bias.

    Examples:
        >>> config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
        >>> config.head_dim, config.rope_scaling
        (16, None)
    """

    mlp_bias: bool = False

    MODEL_TYPES = ("llama",)

    @property
    def feed_forward_bias(self) -> bool:
        """Whether the feed-forward maps have a bias."""
        return self.mlp_bias


class RMSNorm(nnx.Module):
    """Divides by the root of the mean square, in at least float32; keeps the input's dtype."""

    def __init__(self, width: int, config: DecoderConfig):
        self.offset, self.epsilon = config.norm_offset, config.rms_norm_eps
        self.scale = nnx.Param(jnp.full(width, 1 - self.offset))

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        """``x``, normalized over its last axis."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        weight = self.offset + self.scale[...].astype(wide.dtype)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        return (normed * weight.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class LlamaAttention(nnx.Module):
    """Attention with rotary positions and keys shared by groups of queries."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width, size = config.hidden_size, config.head_size
        heads, groups = config.num_attention_heads, config.key_heads

        def project(outputs: int) -> nnx.Linear:
            return dense(width, outputs, config, rngs, use_bias=config.query_bias)

        self.q_proj, self.k_proj, self.v_proj = (
            project(count * size) for count in (heads, groups, groups)
        )
        self.o_proj = dense(heads * size, width, config, rngs, use_bias=config.output_bias)
        if config.norms_queries:
            self.q_norm, self.k_norm = RMSNorm(size, config), RMSNorm(size, config)
        self.dropout = nnx.Dropout(config.attention_dropout, rngs=rngs)
        self.size, self.scale = size, config.attention_scale
        self.softcap, self.norms_queries = config.attention_softcap, config.norms_queries

    def __call__(
        self, x: Tokens, view: View, cache: LayerCache | None, *, with_maps: bool
    ) -> Gathered:
        """What each position gathers, through the output map."""
        gathered = causal_attention(
            self.q_proj(x), self.k_proj(x), self.v_proj(x), view, cache, self.dropout,
            size=self.size, scale=self.scale, softcap=self.softcap,
            norms=(self.q_norm, self.k_norm) if self.norms_queries else None,
            with_maps=with_maps,
        )  # fmt: skip
        return gathered._replace(context=self.o_proj(gathered.context))


class LlamaMLP(nnx.Module):
    """A gated feed-forward block.

    References:
        Shazeer, 2020, https://arxiv.org/abs/2002.05202
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width, inner, use_bias = (
            config.hidden_size, config.intermediate_size, config.feed_forward_bias,
        )  # fmt: skip
        self.gate_proj = dense(width, inner, config, rngs, use_bias=use_bias)
        self.up_proj = dense(width, inner, config, rngs, use_bias=use_bias)
        self.down_proj = dense(inner, width, config, rngs, use_bias=use_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Tokens) -> Tokens:
        """``down(activation(gate(x)) * up(x))``."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nnx.Module):
    """Attention and the feed-forward block, each on normalized input and added to it."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.input_layernorm = RMSNorm(width, config)
        self.self_attn = LlamaAttention(config, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(width, config)
        if config.norms_outputs:
            self.pre_feedforward_layernorm = RMSNorm(width, config)
            self.post_feedforward_layernorm = RMSNorm(width, config)
        self.mlp = LlamaMLP(config, rngs=rngs)
        self.norms_outputs = config.norms_outputs

    def __call__(
        self, x: Tokens, view: View, cache: LayerCache | None, *, with_maps: bool
    ) -> tuple[Tokens, Gathered]:
        """The layer's output, and what its attention returned."""
        gathered = self.self_attn(self.input_layernorm(x), view, cache, with_maps=with_maps)
        if not self.norms_outputs:
            x = x + gathered.context
            return x + self.mlp(self.post_attention_layernorm(x)), gathered
        x = x + self.post_attention_layernorm(gathered.context)
        fed = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.post_feedforward_layernorm(fed), gathered


class LlamaModel(nnx.Module):
    """Word embeddings, layers and the final norm."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.embed_tokens = Embedding(config.vocab_size, config, rngs=rngs)
        self.layers = nnx.List(
            [LlamaLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.norm = RMSNorm(config.hidden_size, config)


class LlamaForCausalLM(CausalLM):
    """A decoder of the Llama shape: :class:`~jaxbrewer.models.causal_lm.CausalLM`."""

    stack = "model.layers"
    words = "model.embed_tokens"
    final_norm = "model.norm"
    config: DecoderConfig

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.model = LlamaModel(config, rngs=rngs)

    def embed(self, input_ids: Ids, position_ids: Ids) -> Hidden:
        """The word embeddings."""
        x, scale = self.model.embed_tokens(input_ids), self.config.embedding_scale
        return x if scale is None else x * jnp.asarray(scale, x.dtype)


def llama_family(
    config: type[DecoderConfig],
    architectures: Mapping[str, str],
    head: type[CausalLM] = LlamaForCausalLM,
) -> Family:
    """A family of the Llama shape; its tensors have the same names."""
    fields: dict[str, Any] = {"config": config, "architectures": architectures}
    return Family(
        heads=(head,), body="model", body_parts=("embed_tokens", "layers", "norm"),
        other_heads=("lm_head", "score"), **fields,
    )  # fmt: skip


FAMILY = llama_family(LlamaConfig, {"llama": "Llama"})
