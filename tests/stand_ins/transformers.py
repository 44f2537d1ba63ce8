"""Hugging Face Flax: parameters beside the code, which takes them with every call."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass
class BertConfig:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    num_labels: int


@struct.dataclass
class FlaxSequenceClassifierOutput:
    logits: jax.Array


class _Module(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, input_ids, attention_mask, deterministic):
        hidden = nn.Embed(self.config.vocab_size, self.config.hidden_size)(input_ids)
        pooled = (hidden * attention_mask[..., None]).mean(1)
        dropped = nn.Dropout(0.1)(pooled, deterministic=deterministic)
        return nn.Dense(self.config.num_labels)(dropped)


class FlaxBertForSequenceClassification:
    def __init__(self, config, seed=0):
        self.module = _Module(config)
        ids = jnp.ones((1, 2), jnp.int32)
        self.params = self.module.init(jax.random.key(seed), ids, ids, True)["params"]

    def __call__(self, input_ids, attention_mask, params=None, train=False, dropout_rng=None):
        rngs = {"dropout": dropout_rng} if dropout_rng is not None else {}
        variables = {"params": params or self.params}
        logits = self.module.apply(variables, input_ids, attention_mask, not train, rngs=rngs)
        return FlaxSequenceClassifierOutput(logits)
