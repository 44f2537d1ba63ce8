"""Gemma: the Llama shape with scaled embeddings and weights of norms around 0.

References:
    Mesnard et al., 2024, https://arxiv.org/abs/2403.08295
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .decoder_config import DecoderConfig
from .llama import llama_family


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaConfig(DecoderConfig):
    """Sizes and settings of a Gemma; the defaults are those of Gemma-7B.

    ``hidden_activation`` of a file, where it is set, replaces its ``hidden_act``.
    """

    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    head_dim: int | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    MODEL_TYPES = ("gemma",)
    norm_offset = 1.0

    @property
    def embedding_scale(self) -> float:
        """The root of the width."""
        return self.hidden_size**0.5

    @classmethod
    def _own_fields(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        own = super()._own_fields(fields)
        activation = fields.get("hidden_activation")
        return own if activation is None else {**own, "hidden_act": activation}


FAMILY = llama_family(GemmaConfig, {"gemma": "Gemma"})
