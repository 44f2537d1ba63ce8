"""Mistral: the Llama shape with a window in every layer.

References:
    Jiang et al., 2023, https://arxiv.org/abs/2310.06825
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from .decoder_config import FULL, SLIDING, DecoderConfig
from .llama import llama_family


@dataclasses.dataclass(frozen=True, kw_only=True)
class MistralConfig(DecoderConfig):
    """Sizes and settings of a Mistral; the defaults are those of Mistral-7B.

    Attributes:
        sliding_window: Number of the last positions that each layer sees; ``None`` for all.
    """

    intermediate_size: int = 14336
    max_position_embeddings: int = 131072
    num_key_value_heads: int | None = 8
    sliding_window: int | None = 4096

    MODEL_TYPES = ("mistral",)
    CHECKED: ClassVar[Mapping[str, Any]] = {**DecoderConfig.CHECKED, "layer_types": None}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sliding_window is not None and self.sliding_window < 1:
            self.refuse("sliding_window", "must be an integer of at least 1 or null")

    def layer_kind(self, layer: int) -> str:
        """The same of all layers."""
        return FULL if self.sliding_window is None else SLIDING

    @property
    def window(self) -> int | None:
        """Number of positions that each layer sees."""
        return self.sliding_window


FAMILY = llama_family(MistralConfig, {"mistral": "Mistral"})
