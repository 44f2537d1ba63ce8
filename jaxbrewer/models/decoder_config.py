"""The fields that the configs of all decoders with rotary positions share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import UsageError
from .config import TransformerConfig
from .rotary import Rope, RopeScaling

FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers under their names in ``config.json``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig(TransformerConfig):
    """What the configs of all decoders have.

    Attributes:
        bos_token_id: The token that begins a text.
        eos_token_id: The token that ends it, or several such tokens.
        output_attentions: Whether the model returns ``attention_scores`` and ``attentions``. It
            computes them only then.
        fused_logits: Whether ``logits`` is a :class:`~jaxbrewer.LogitsOf`, the last hidden states
            and the output map, instead of an array.
    """

    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    output_attentions: bool = False
    fused_logits: bool = False

    NOT_IN_FILES: ClassVar[frozenset[str]] = frozenset({"output_attentions", "fused_logits"})
    CHECKED: ClassVar[Mapping[str, Any]] = {"add_cross_attention": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = self.eos_token_id
        if isinstance(ends, (list, tuple)):
            object.__setattr__(self, "eos_token_id", tuple(ends))
        if not all(isinstance(end, int) for end in self.ends):
            self.refuse("eos_token_id", "must be an integer, a list of integers or null")

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        ends = self.eos_token_id
        return ends if isinstance(ends, tuple) else () if ends is None else (ends,)

    def layer_kind(self, layer: int) -> str:
        """``FULL`` or ``SLIDING``."""
        return FULL

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def window(self) -> int | None:
        """Number of positions that layers of the kind ``SLIDING`` see."""
        return None

    def rope_of(self, kind: str) -> Rope | None:
        """The rotary positions of the layers of a kind; ``None`` for none."""
        return None

    @property
    def logit_softcap(self) -> float | None:
        r""":math:`c` in :math:`c \tanh(z / c)` of the logits."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(CausalConfig):
    """Sizes and settings of a decoder of the Llama shape.

    Attributes:
        num_key_value_heads: Heads of keys and values; ``None`` for as many as of queries.
        head_dim: Features of a head; ``None`` for ``hidden_size / num_attention_heads``.
        rms_norm_eps: Added to the mean square in norms.
        attention_bias: Whether attention's dense maps have a bias.
        attention_dropout: Dropout of attention probabilities.
        rope_theta: Base of the rotary positions.
        rope_scaling: Their scaling; an object as in ``config.json`` is read.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    intermediate_size: int = 11008
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    attention_dropout: float = 0.0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    CHECKED: ClassVar[Mapping[str, Any]] = {
        **CausalConfig.CHECKED,
        "partial_rotary_factor": 1.0,
    }
    norms_queries: ClassVar[bool] = False
    """Whether queries and keys are normalized, head by head."""
    norms_outputs: ClassVar[bool] = False
    """Whether the outputs of both blocks of a layer are normalized before they are added."""
    norm_offset: ClassVar[float] = 0.0
    """Added to the weights of norms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = self.num_attention_heads
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", heads)
        if self.key_heads < 1 or heads % self.key_heads:
            self.refuse("num_key_value_heads", f"must divide num_attention_heads {heads}")
        if self.head_dim is None:
            if self.hidden_size % heads:
                raise UsageError(
                    f"{type(self).__name__} hidden_size {self.hidden_size} is not a multiple of "
                    f"num_attention_heads {heads}: give head_dim."
                )
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        if self.head_size < 2 or self.head_size % 2 or self.head_size > 2**14:
            self.refuse("head_dim", "must be an even number of at least 2")
        if not self.rope_theta:
            self.refuse("rope_theta", "must be above 0")
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            scaling = RopeScaling.from_dict(self.rope_scaling, self.head_size)
            object.__setattr__(self, "rope_scaling", scaling)

    @property
    def longest_input(self) -> int | None:
        """``None``: rotary positions have no last one."""
        return None

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Features of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def attention_scale(self) -> float:
        """Multiplies the products of queries and keys."""
        return self.head_size**-0.5

    @property
    def attention_softcap(self) -> float | None:
        r""":math:`c` in :math:`c \tanh(s / c)` of attention's scores."""
        return None

    @property
    def embedding_scale(self) -> float | None:
        """Multiplies the word embeddings."""
        return None

    @property
    def query_bias(self) -> bool:
        """Whether the maps to queries, keys and values have a bias."""
        return self.attention_bias

    @property
    def output_bias(self) -> bool:
        """Whether attention's output map has a bias."""
        return self.attention_bias

    @property
    def feed_forward_bias(self) -> bool:
        """Whether the feed-forward maps have a bias."""
        return False

    def rope_of(self, kind: str) -> Rope:
        """The rotary positions of the layers of a kind."""
        scaling = self.rope_scaling or RopeScaling()
        return Rope(self.head_size, self.rope_theta, self.max_position_embeddings, scaling)

    @classmethod
    def _own_fields(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return super()._own_fields(_with_rope_fields(fields))

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`TransformerConfig.to_dict`, with the scaling as an object."""
        fields = {**super().to_dict(), "rope_scaling": None}
        if self.rope_scaling is not None:
            fields["rope_scaling"] = self.rope_scaling.to_dict()
            original = fields["rope_scaling"].get("original_max_position_embeddings")
            if self.rope_scaling.rope_type == "longrope" and original is not None:
                fields["original_max_position_embeddings"] = original
        return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayeredConfig(DecoderConfig):
    """A decoder whose layers see the whole text or a window, each as ``layer_types`` says.

    Attributes:
        sliding_window: Number of the last positions that layers with a window see.
        layer_types: The kind of each layer; ``None`` for the family's order of kinds.
    """

    sliding_window: int | None = 4096
    layer_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sliding_window is not None and self.sliding_window < 1:
            self.refuse("sliding_window", "must be an integer of at least 1 or null")
        kinds: Sequence[str] | None = self.layer_types
        if kinds is None:
            kinds = [self.default_kind(layer) for layer in range(self.num_hidden_layers)]
        if not isinstance(kinds, (list, tuple)) or not set(map(str, kinds)) <= {FULL, SLIDING}:
            self.refuse("layer_types", f"must be a list of {FULL!r} and {SLIDING!r}")
        if len(kinds) != self.num_hidden_layers:
            raise UsageError(
                f"{type(self).__name__} layer_types has {len(kinds)} layers, num_hidden_layers is "
                f"{self.num_hidden_layers}."
            )
        if SLIDING in kinds and self.window is None:
            self.refuse("sliding_window", "must be a number, as layer_types has windows")
        object.__setattr__(self, "layer_types", tuple(kinds))

    def default_kind(self, layer: int) -> str:
        """The kind of a layer where the file does not list it."""
        return FULL if self.window is None else SLIDING

    def layer_kind(self, layer: int) -> str:
        """``FULL`` or ``SLIDING``."""
        assert self.layer_types is not None
        return self.layer_types[layer]

    @property
    def window(self) -> int | None:
        """Number of positions that layers of the kind ``SLIDING`` see."""
        return self.sliding_window

    def fields_of_layers(self, layers: Sequence[int]) -> dict[str, Any]:
        """The kinds of the layers that are kept."""
        return {"layer_types": tuple(self.layer_kind(layer) for layer in layers)}


def _with_rope_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` of newer files, and a length beside ``rope_scaling``, in the old form."""
    fields = dict(fields)
    given = fields.get("rope_parameters")
    if isinstance(given, Mapping) and isinstance(given.get(FULL), Mapping):
        local = given.get(SLIDING)
        if isinstance(local, Mapping) and "rope_theta" in local:
            fields.setdefault("rope_local_base_freq", local["rope_theta"])
        given = given[FULL]
    if isinstance(given, Mapping) and given:
        given = dict(given)
        theta = given.pop("rope_theta", None)
        fields.setdefault("rope_scaling", given if given.get("rope_type") != "default" else None)
        if theta is not None:
            fields.setdefault("rope_theta", theta)
    scaling, original = fields.get("rope_scaling"), fields.get("original_max_position_embeddings")
    if isinstance(scaling, Mapping) and scaling.get("rope_type", scaling.get("type")) == "default":
        fields["rope_scaling"] = None
    elif isinstance(scaling, Mapping) and original is not None and "long_factor" in scaling:
        fields["rope_scaling"] = {**scaling, "original_max_position_embeddings": original}
    return fields
