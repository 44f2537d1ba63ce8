"""Qwen3: the Llama shape with norms of queries and keys.

References:
    Yang et al., 2025, https://arxiv.org/abs/2505.09388
"""

import dataclasses

from .decoder_config import LayeredConfig
from .llama import llama_family
from .qwen2 import Qwen2Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config(Qwen2Config):
    """Sizes and settings of a Qwen3; the defaults are those of Qwen3-8B in ``transformers``."""

    head_dim: int | None = 128
    attention_bias: bool = False

    MODEL_TYPES = ("qwen3",)
    NOT_IN_FILES = LayeredConfig.NOT_IN_FILES
    norms_queries = True

    @property
    def output_bias(self) -> bool:
        """Whether attention's output map has a bias."""
        return self.attention_bias


FAMILY = llama_family(Qwen3Config, {"qwen3": "Qwen3"})
