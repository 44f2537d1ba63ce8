"""Qwen2 and Qwen2.5: the Llama shape with biases of queries, keys and values.

References:
    Yang et al., 2024, https://arxiv.org/abs/2407.10671
"""

import dataclasses

from .decoder_config import FULL, SLIDING, LayeredConfig
from .llama import llama_family


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config(LayeredConfig):
    """Sizes and settings of a Qwen2; the defaults are those of Qwen2-beta-7B.

    Attributes:
        use_sliding_window: Whether some layers see only a window.
        max_window_layers: Number of the first layers that see the whole text nevertheless, where
            ``layer_types`` does not say which.
    """

    vocab_size: int = 151936
    intermediate_size: int = 22016
    max_position_embeddings: int = 32768
    num_key_value_heads: int | None = 32
    attention_bias: bool = True
    use_sliding_window: bool = False
    max_window_layers: int = 28

    MODEL_TYPES = ("qwen2",)
    ZERO_ALLOWED = frozenset({"num_hidden_layers", "max_window_layers"})
    NOT_IN_FILES = LayeredConfig.NOT_IN_FILES | {"attention_bias"}  # always true

    def __post_init__(self) -> None:
        if not self.use_sliding_window:
            object.__setattr__(self, "sliding_window", None)
        super().__post_init__()

    def default_kind(self, layer: int) -> str:
        """Whole texts in the first layers, then windows."""
        return FULL if self.window is None or layer < self.max_window_layers else SLIDING

    @property
    def output_bias(self) -> bool:
        """Attention's output map has no bias."""
        return False


FAMILY = llama_family(Qwen2Config, {"qwen2": "Qwen2"})
