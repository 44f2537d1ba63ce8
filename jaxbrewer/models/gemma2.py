"""Gemma 2: norms before and after each block, capped scores and logits, windows in half the layers.

References:
    Riviere et al., 2024, https://arxiv.org/abs/2408.00118
"""

import dataclasses
from typing import ClassVar

from .decoder_config import FULL, SLIDING, LayeredConfig
from .llama import llama_family


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma2Config(LayeredConfig):
    """Sizes and settings of a Gemma 2; the defaults are those of Gemma-2-2B.

    Attributes:
        query_pre_attn_scalar: The products of queries and keys are divided by its root.
        attn_logit_softcapping: Bound of attention's scores; ``None`` for none.
        final_logit_softcapping: Bound of the logits; ``None`` for none.
    """

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    query_pre_attn_scalar: float = 256
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0

    MODEL_TYPES = ("gemma2",)
    FILE_KEYS: ClassVar[dict[str, str]] = {"hidden_act": "hidden_activation"}
    norm_offset = 1.0
    norms_outputs = True

    def __post_init__(self) -> None:
        super().__post_init__()
        caps = "attn_logit_softcapping", "final_logit_softcapping"
        for name in ("query_pre_attn_scalar", *caps):
            if getattr(self, name) == 0:
                self.refuse(name, "must be above 0")

    def default_kind(self, layer: int) -> str:
        """Windows in layers 0, 2, 4, ..."""
        return FULL if layer % 2 else SLIDING

    @property
    def attention_scale(self) -> float:
        """Multiplies the products of queries and keys."""
        return self.query_pre_attn_scalar**-0.5

    @property
    def attention_softcap(self) -> float | None:
        """Bound of attention's scores."""
        return self.attn_logit_softcapping

    @property
    def logit_softcap(self) -> float | None:
        """Bound of the logits."""
        return self.final_logit_softcapping

    @property
    def embedding_scale(self) -> float:
        """The root of the width."""
        return self.hidden_size**0.5


FAMILY = llama_family(Gemma2Config, {"gemma2": "Gemma2"})
