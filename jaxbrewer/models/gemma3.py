"""Gemma 3, the models of text: Gemma 2 with norms of queries and keys, and two rotary bases.

References:
    Kamath et al., 2025, https://arxiv.org/abs/2503.19786
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from .decoder_config import FULL, SLIDING, DecoderConfig
from .gemma2 import Gemma2Config
from .llama import llama_family
from .rotary import Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma3Config(Gemma2Config):
    """Sizes and settings of a Gemma 3 of text; the defaults are those of ``transformers``.

    Attributes:
        rope_local_base_freq: Base of the rotary positions of layers with a window, which have no
            scaling.
        sliding_window_pattern: Layers n - 1, 2n - 1, ... see the whole text, where ``layer_types``
            does not say which.
    """

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    rope_theta: float = 1_000_000.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    rope_local_base_freq: float = 10_000.0
    sliding_window_pattern: int = 6

    MODEL_TYPES = ("gemma3_text",)
    CHECKED: ClassVar[Mapping[str, Any]] = {
        **DecoderConfig.CHECKED,
        "use_bidirectional_attention": False,
    }
    norms_queries = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rope_local_base_freq:
            self.refuse("rope_local_base_freq", "must be above 0")

    def default_kind(self, layer: int) -> str:
        """Whole texts in every n-th layer."""
        return SLIDING if (layer + 1) % self.sliding_window_pattern else FULL

    def rope_of(self, kind: str) -> Rope:
        """Layers with a window have a base of their own and no scaling."""
        rope = super().rope_of(kind)
        if kind == FULL:
            return rope
        return Rope(rope.size, self.rope_local_base_freq, rope.max_positions)


FAMILY = llama_family(Gemma3Config, {"gemma3_text": "Gemma3"})
