"""GPT-2: learned positions, layer norms, one dense map to queries, keys and values.

References:
    Radford et al., 2019, "Language Models are Unsupervised Multitask Learners"
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from ..errors import UsageError
from .causal_attention import Gathered, LayerCache, View, causal_attention
from .causal_lm import CausalLM
from .decoder_config import CausalConfig
from .families import Family
from .layers import ACTIVATIONS, Embedding, Hidden, Ids, LayerNorm, Tokens, dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config(CausalConfig):
    """Sizes and settings of a GPT-2; the defaults are those of the smallest.

    Attributes:
        embd_pdrop: Dropout of the embeddings.
        attn_pdrop: Dropout of attention probabilities.
        resid_pdrop: Dropout of what each block adds.
        layer_norm_epsilon: Added to the variance in layer norms.
        scale_attn_weights: Whether the products of queries and keys are divided by the root of
            their number of features.
        scale_attn_by_inverse_layer_idx: Whether they are also divided by the layer's number from 1.

    Examples:
        >>> GPT2Config.from_dict({"n_embd": 64, "n_head": 4, "n_inner": None}).intermediate_size
        256
    """

    vocab_size: int = 50257
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 1024
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    MODEL_TYPES = ("gpt2",)
    FILE_KEYS: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "max_position_embeddings": "n_positions",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"{type(self).__name__} hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}."
            )

    def attention_scale(self, layer: int) -> float:
        """Multiplies the products of queries and keys of a layer."""
        scale = self.head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def fields_of_layers(self, layers: Sequence[int]) -> dict[str, Any]:
        """None.

        Raises:
            UsageError: Attention depends on the number of its layer, which would change.
        """
        if self.scale_attn_by_inverse_layer_idx and list(layers) != list(range(len(layers))):
            raise UsageError(
                f"layers {list(layers)!r} must be 0, 1, 2, ...: with "
                "scale_attn_by_inverse_layer_idx, attention depends on the number of its layer."
            )
        return {}

    @classmethod
    def _own_fields(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        own = super()._own_fields(fields)
        width = own.get("hidden_size", cls.hidden_size)
        if own.get("intermediate_size") is None and isinstance(width, int):
            own["intermediate_size"] = 4 * width
        return own

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`TransformerConfig.to_dict`; ``n_inner`` is null for four times the width."""
        fields = super().to_dict()
        if self.intermediate_size == 4 * self.hidden_size:
            fields["n_inner"] = None
        return fields


class GPT2Attention(nnx.Module):
    """Attention and its output map."""

    def __init__(self, config: GPT2Config, layer: int, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.c_attn = dense(width, 3 * width, config, rngs)
        self.c_proj = dense(width, width, config, rngs)
        self.attn_dropout = nnx.Dropout(config.attn_pdrop, rngs=rngs)
        self.resid_dropout = nnx.Dropout(config.resid_pdrop, rngs=rngs)
        self.size, self.scale = config.head_size, config.attention_scale(layer)

    def __call__(
        self, x: Tokens, view: View, cache: LayerCache | None, *, with_maps: bool
    ) -> Gathered:
        """What each position gathers, through the output map."""
        query, key, value = jnp.split(self.c_attn(x), 3, axis=-1)
        gathered = causal_attention(
            query, key, value, view, cache, self.attn_dropout, size=self.size, scale=self.scale,
            with_maps=with_maps,
        )  # fmt: skip
        return gathered._replace(context=self.resid_dropout(self.c_proj(gathered.context)))


class GPT2MLP(nnx.Module):
    """Two dense maps with an activation between them."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        self.c_fc = dense(config.hidden_size, config.intermediate_size, config, rngs)
        self.c_proj = dense(config.intermediate_size, config.hidden_size, config, rngs)
        self.dropout = nnx.Dropout(config.resid_pdrop, rngs=rngs)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Tokens) -> Tokens:
        """``c_proj(activation(c_fc(x)))``."""
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class GPT2Block(nnx.Module):
    """Attention and the feed-forward block, each on normalized input and added to it."""

    def __init__(self, config: GPT2Config, layer: int, *, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(config.hidden_size, config.layer_norm_epsilon, rngs)
        self.attn = GPT2Attention(config, layer, rngs=rngs)
        self.ln_2 = LayerNorm(config.hidden_size, config.layer_norm_epsilon, rngs)
        self.mlp = GPT2MLP(config, rngs=rngs)

    def __call__(
        self, x: Tokens, view: View, cache: LayerCache | None, *, with_maps: bool
    ) -> tuple[Tokens, Gathered]:
        """The layer's output, and what its attention returned."""
        gathered = self.attn(self.ln_1(x), view, cache, with_maps=with_maps)
        x = x + gathered.context
        return x + self.mlp(self.ln_2(x)), gathered


class GPT2Model(nnx.Module):
    """Word and position embeddings, layers and the final norm."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        self.wte = Embedding(config.vocab_size, config, rngs=rngs)
        self.wpe = Embedding(config.max_position_embeddings, config, rngs=rngs)
        self.drop = nnx.Dropout(config.embd_pdrop, rngs=rngs)
        self.h = nnx.List(
            [GPT2Block(config, layer, rngs=rngs) for layer in range(config.num_hidden_layers)]
        )
        self.ln_f = LayerNorm(config.hidden_size, config.layer_norm_epsilon, rngs)


class GPT2LMHeadModel(CausalLM):
    """A GPT-2: :class:`~jaxbrewer.models.causal_lm.CausalLM`."""

    stack = "transformer.h"
    words = "transformer.wte"
    final_norm = "transformer.ln_f"
    config: GPT2Config

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.transformer = GPT2Model(config, rngs=rngs)

    def embed(self, input_ids: Ids, position_ids: Ids) -> Hidden:
        """Words and positions, added up."""
        model = self.transformer
        return model.drop(model.wte(input_ids) + model.wpe(position_ids))


FAMILY = Family(
    config=GPT2Config,
    heads=(GPT2LMHeadModel,),
    body="transformer",
    body_parts=("wte", "wpe", "h", "ln_f"),
    architectures={"gpt2": "GPT2"},
    other_heads=("lm_head", "score", "multiple_choice_head"),
    untransposed=("c_attn", "c_proj", "c_fc"),
)
