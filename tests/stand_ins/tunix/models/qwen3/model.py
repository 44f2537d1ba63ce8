"""Tunix: NNX decoders that take positions, a cache and a mask, and return logits and the cache."""

import dataclasses

import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass
class ModelConfig:
    num_layers: int
    vocab_size: int
    embed_dim: int
    hidden_dim: int
    num_heads: int
    head_dim: int
    num_kv_heads: int
    rope_theta: int
    norm_eps: float


class Qwen3(nnx.Module):
    def __init__(self, config, *, rngs):
        self.embed = nnx.Embed(config.vocab_size, config.embed_dim, rngs=rngs)
        self.head = nnx.Linear(config.embed_dim, config.vocab_size, rngs=rngs)

    def __call__(self, input_tokens, positions, cache, attention_mask, output_hidden_states=False):
        hidden = self.embed(input_tokens) + jnp.sin(positions)[..., None]
        weights = attention_mask / attention_mask.sum(-1, keepdims=True)
        return self.head(weights @ hidden), cache
