"""DeBERTa-v2 and v3: attention between contents and relative positions.

References:
    He et al., 2021, section 3.1, https://arxiv.org/abs/2006.03654
    He et al., 2023 (v3), https://arxiv.org/abs/2111.09543
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ..errors import UsageError
from .bert import BertAttention, BertLayer
from .config import ACTIVATION_NAMES, EncoderConfig
from .families import Family
from .heads import EncoderModel, FeatureExtractor, MaskedLM, SpanFinder, TokenClassifier
from .layers import (
    ACTIVATIONS,
    PADDING_SCORE,
    Embedding,
    Hidden,
    Ids,
    LayerNorm,
    Mask,
    Outputs,
    Scores,
    Tokens,
    attend,
    dense,
    run_layers,
    split_heads,
)

POSITION_ATTENTION = ("c2p", "p2c")
"""Content to position, position to content."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebertaV2Config(EncoderConfig):
    """Sizes and settings of a DeBERTa-v2 or v3; the defaults are those of ``transformers``.

    Attributes:
        hidden_dropout_prob: Dropout of embeddings and of what each block adds.
        attention_probs_dropout_prob: Dropout of attention probabilities.
        cls_dropout: Dropout before the head of a sequence classifier; ``None`` means
            ``hidden_dropout_prob``.
        pooler_dropout: Dropout before the pooler.
        pooler_hidden_act: The pooler's activation.
        type_vocab_size: Rows of the token-type embeddings; 0 for none.
        layer_norm_eps: Added to the variance in layer norms.
        embedding_size: Width of the embeddings; ``None`` for ``hidden_size``.
        relative_attention: Whether attention looks at relative positions.
        position_buckets: Rows for distances in each direction; longer distances share rows on a
            logarithmic scale. Below 1, every distance has its row.
        max_relative_positions: The largest distance; below 1 for ``max_position_embeddings``.
        pos_att_type: Which of ``"c2p"`` and ``"p2c"`` are added to the scores.
        share_att_key: Whether positions pass through the maps of the contents.
        norm_rel_ebd: ``"layer_norm"`` normalizes the table of relative positions.
        position_biased_input: Whether absolute positions are added to the embeddings.

    Examples:
        >>> fields = {"relative_attention": True, "pos_att_type": "p2c|c2p"}
        >>> DebertaV2Config.from_dict(fields).pos_att_type
        ('p2c', 'c2p')
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    cls_dropout: float | None = None
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    embedding_size: int | None = None
    relative_attention: bool = False
    position_buckets: Any = -1
    max_relative_positions: Any = -1
    pos_att_type: tuple[str, ...] = ()
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("deberta-v2",)
    ZERO_ALLOWED: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers", "type_vocab_size"})

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds: Any = self.pos_att_type or ()
        kinds = kinds.split("|") if isinstance(kinds, str) else kinds
        is_list = isinstance(kinds, (list, tuple))
        if not is_list or any(kind not in POSITION_ATTENTION for kind in kinds):
            self.refuse("pos_att_type", f"must hold some of {', '.join(POSITION_ATTENTION)}")
        object.__setattr__(self, "pos_att_type", tuple(kinds))
        for name in ("position_buckets", "max_relative_positions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                self.refuse(name, "must be an integer")
        if self.pooler_hidden_act not in ACTIVATION_NAMES:
            self.refuse("pooler_hidden_act", f"must be one of {', '.join(ACTIVATION_NAMES)}")
        if not isinstance(self.norm_rel_ebd, str) or self.norm_rel_ebd not in (
            "none",
            "layer_norm",
        ):
            self.refuse("norm_rel_ebd", "must be 'none' or 'layer_norm'")
        if self.pos_att_type and not self.relative_attention:
            self.refuse("relative_attention", "must be true where pos_att_type is given")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """As :meth:`EncoderConfig.from_dict`; convolutions and own head sizes are refused."""
        if fields.get("conv_kernel_size"):
            raise UsageError("config conv_kernel_size is not supported, only 0.")
        config = super().from_dict(fields)
        size = config.hidden_size // config.num_attention_heads
        if fields.get("attention_head_size", size) != size:
            raise UsageError(
                f"config attention_head_size {fields['attention_head_size']!r} is not supported, "
                f"only hidden_size / num_attention_heads, {size}."
            )
        return config

    @property
    def embedding_width(self) -> int:
        """The width of the word embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def furthest(self) -> int:
        """The largest distance."""
        given: int = self.max_relative_positions
        return given if given >= 1 else self.max_position_embeddings

    @property
    def span(self) -> int:
        """Rows of the table of relative positions in each direction."""
        buckets: int = self.position_buckets
        return buckets if buckets > 0 else self.furthest

    def head_dropout(self, task: str) -> float:
        """The dropout rate before the head of a task."""
        if task == "sequence-classification" and self.cls_dropout is not None:
            return self.cls_dropout
        return self.hidden_dropout_prob

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`EncoderConfig.to_dict`; an ``embedding_size`` of ``None`` stays out."""
        fields = {**super().to_dict(), "pos_att_type": list(self.pos_att_type) or None}
        if self.embedding_size is None:
            del fields["embedding_size"]
        return {**fields, "pooler_hidden_size": self.hidden_size}


@functools.cache
def bucket_table(buckets: int, furthest: int, longest: int) -> np.ndarray:
    """The bucket of each distance ``query - key`` from ``-longest`` to ``longest``, int32.

    Distances below ``buckets / 2`` have a bucket each; larger ones share buckets on a logarithmic
    scale up to ``furthest``.

    Examples:
        >>> bucket_table(4, 8, 8)[8:].tolist()
        [0, 1, 2, 3, 3, 3, 3, 3, 4]
    """
    distance = np.arange(-longest, longest + 1)
    if buckets <= 0:
        return distance.astype(np.int32)
    middle = buckets // 2
    away = np.where(np.abs(distance) < middle, middle - 1, np.abs(distance)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # one bucket each way has no logarithm
        scale = np.log(np.float32((furthest - 1) / middle))
        far = np.ceil(np.log(away / np.float32(middle)) / scale * np.float32(middle - 1)) + middle
    return np.where(away <= middle, distance, far * np.sign(distance)).astype(np.int32)


def relative_positions(length: int, config: DebertaV2Config) -> Int[Array, "length length"]:
    """The bucketed distance from each query to each key."""
    longest = max(config.max_position_embeddings, config.furthest)
    table = bucket_table(config.position_buckets, config.furthest, longest)
    positions = jnp.arange(length)
    return jnp.asarray(table)[positions[:, None] - positions[None, :] + longest]


class DebertaV2Embeddings(nnx.Module):
    """Words and, where the config has them, positions and token types; padding is zeroed."""

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        def table(rows: int) -> Embedding:
            return Embedding(rows, config, rngs=rngs, width=config.embedding_width)

        self.word_embeddings = table(config.vocab_size)
        if config.position_biased_input:
            self.position_embeddings = table(config.max_position_embeddings)
        if config.type_vocab_size:
            self.token_type_embeddings = table(config.type_vocab_size)
        if config.embedding_width != config.hidden_size:
            self.embed_proj = dense(
                config.embedding_width, config.hidden_size, config, rngs, use_bias=False
            )
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(
        self, input_ids: Ids, attention_mask: Mask | None, token_type_ids: Ids | None
    ) -> Hidden:
        """The vectors that the first layer reads."""
        total = self.word_embeddings(input_ids)
        if hasattr(self, "position_embeddings"):
            total = total + self.position_embeddings(jnp.arange(input_ids.shape[1])[None])
        if hasattr(self, "token_type_embeddings"):
            types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
            total = total + self.token_type_embeddings(types)
        if hasattr(self, "embed_proj"):
            total = self.embed_proj(total)
        total = self.LayerNorm(total)
        if attention_mask is not None:
            total = jnp.where(jnp.asarray(attention_mask)[..., None] != 0, total, 0)
        return self.dropout(total)


class DebertaV2SelfAttention(nnx.Module):
    """Attention whose scores add content-to-position and position-to-content products."""

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.query_proj, self.key_proj, self.value_proj = (
            dense(width, width, config, rngs) for _ in range(3)
        )
        if config.relative_attention and not config.share_att_key:
            if "c2p" in config.pos_att_type:
                self.pos_key_proj = dense(width, width, config, rngs)
            if "p2c" in config.pos_att_type:
                self.pos_query_proj = dense(width, width, config, rngs)
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)
        self.pos_dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)
        self.config = config

    def __call__(
        self,
        x: Tokens,
        padding: Float[Array, "batch 1 length length"],
        table: Float[Array, "rows width"] | None,
        distances: Int[Array, "length length"] | None,
    ) -> tuple[Tokens, Scores, Scores]:
        """What each position gathers, the scores and the probabilities."""
        batch, length = padding.shape[0], padding.shape[-1]
        heads = self.config.num_attention_heads
        query, key, value = (
            split_heads(project(x), batch, length, heads)
            for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        scale = (query.shape[-1] * (1 + len(self.config.pos_att_type))) ** 0.5
        bias: Array = padding
        if table is not None and distances is not None:
            bias = bias + self._position_scores(query, key, table, distances) / scale
        return attend(query, key, value, bias, self.dropout, scale=scale)

    def _position_scores(
        self,
        query: Float[Array, "batch length heads size"],
        key: Float[Array, "batch length heads size"],
        table: Float[Array, "rows width"],
        distances: Int[Array, "length length"],
    ) -> Scores:
        """Products of contents and positions, before they are scaled, float32 at least."""
        shared, span = self.config.share_att_key, self.config.span
        table = self.pos_dropout(table)[None, : 2 * span]
        wide = jnp.promote_types(query.dtype, jnp.float32)
        product = functools.partial(jnp.einsum, "bqhd,rhd->bhqr", preferred_element_type=wide)

        def rows(project: Any) -> Float[Array, "rows heads size"]:
            mapped = project(table[0]).astype(query.dtype)
            return split_heads(mapped, 1, mapped.shape[0], query.shape[2])[0]

        total = jnp.zeros((), wide)
        if "c2p" in self.config.pos_att_type:
            scores = product(query, rows(self.key_proj if shared else self.pos_key_proj))
            index = jnp.clip(distances + span, 0, 2 * span - 1)[None, None]
            total = total + jnp.take_along_axis(scores, index, axis=-1)
        if "p2c" in self.config.pos_att_type:
            scores = product(key, rows(self.query_proj if shared else self.pos_query_proj))
            index = jnp.clip(span - distances, 0, 2 * span - 1)[None, None]
            total = total + jnp.take_along_axis(scores, index, axis=-1).swapaxes(-1, -2)
        return total


class DebertaV2Attention(BertAttention):
    """Self-attention and its output map."""

    self_attention = DebertaV2SelfAttention


class DebertaV2Layer(BertLayer):
    """Attention, then the feed-forward block."""

    attention_block = DebertaV2Attention


class DebertaV2Encoder(nnx.Module):
    """The stack of layers, which share the table of relative positions."""

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        self.layer = nnx.List(
            [DebertaV2Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        if config.relative_attention:
            self.rel_embeddings = Embedding(2 * config.span, config, rngs=rngs)
        if config.norm_rel_ebd == "layer_norm":
            self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.config = config

    def __call__(self, x: Hidden, attention_mask: Mask | None) -> Outputs:
        """All hidden states, scores and probabilities."""
        batch, length = x.shape[0], x.shape[1]
        if attention_mask is None:
            padding = jnp.zeros((batch, 1, length, length))
        else:
            valid = jnp.asarray(attention_mask) != 0
            pairs = (valid[:, None, :] & valid[:, :, None])[:, None]
            padding = jnp.where(pairs, 0.0, PADDING_SCORE)
        table = distances = None
        if self.config.relative_attention:
            table = self.rel_embeddings.embedding[...]
            table = self.LayerNorm(table) if self.config.norm_rel_ebd == "layer_norm" else table
            distances = relative_positions(length, self.config)
        return run_layers(self.layer, x, padding, table, distances)


class DebertaV2Model(nnx.Module):
    """Embeddings and layers."""

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        self.embeddings = DebertaV2Embeddings(config, rngs=rngs)
        self.encoder = DebertaV2Encoder(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        token_type_ids: Ids | None = None,
    ) -> Outputs:
        """All hidden states, scores and probabilities."""
        embedded = self.embeddings(input_ids, attention_mask, token_type_ids)
        return self.encoder(embedded, attention_mask)


class ContextPooler(nnx.Module):
    """The first position through a dense map and an activation."""

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        self.dense = dense(config.hidden_size, config.hidden_size, config, rngs)
        self.dropout = nnx.Dropout(config.pooler_dropout, rngs=rngs)
        self.activation = ACTIVATIONS[config.pooler_hidden_act]

    def __call__(self, hidden: Hidden) -> Float[Array, "batch width"]:
        """``activation(dense(hidden[:, 0]))``."""
        return self.activation(self.dense(self.dropout(hidden[:, 0])))


class DebertaV2Head(EncoderModel):
    """What all DeBERTas share: the config, the encoder and the inputs."""

    stack = "deberta.encoder.layer"
    words = "deberta.embeddings.word_embeddings"
    config: DebertaV2Config

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.deberta = DebertaV2Model(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        token_type_ids: Ids | None = None,
    ) -> Outputs:
        """As :class:`~jaxbrewer.models.bert.BertHead`, without ``position_ids``."""
        ids = self.checked(
            input_ids,
            longest=self.config.longest_input,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
        )
        return self.with_head(self.deberta(ids, attention_mask, token_type_ids), attention_mask)


class DebertaV2ForSequenceClassification(DebertaV2Head):
    """A DeBERTa that gives each sequence ``logits``, ``[batch, labels]``."""

    task = "sequence-classification"

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.pooler = ContextPooler(config, rngs=rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)
        self.dropout = nnx.Dropout(config.head_dropout(self.task), rngs=rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of the pooled sequence."""
        return {"logits": self.classifier(self.dropout(self.pooler(hidden)))}


class DebertaV2ForTokenClassification(TokenClassifier, DebertaV2Head):
    """A DeBERTa that gives each token ``logits``, ``[batch, length, labels]``."""


class DebertaV2ForQuestionAnswering(SpanFinder, DebertaV2Head):
    """A DeBERTa that finds a span: ``start_logits`` and ``end_logits``, ``[batch, length]``."""


class DebertaV2ForMaskedLM(MaskedLM, DebertaV2Head):
    """A DeBERTa that predicts tokens, with a decoder tied to its word embeddings."""


class DebertaV2ForFeatureExtraction(FeatureExtractor, DebertaV2Head):
    """A DeBERTa without a head; Hugging Face's ``DebertaV2Model``."""


FAMILY = Family(
    config=DebertaV2Config,
    heads=(
        DebertaV2ForFeatureExtraction,
        DebertaV2ForSequenceClassification,
        DebertaV2ForTokenClassification,
        DebertaV2ForQuestionAnswering,
        DebertaV2ForMaskedLM,
    ),
    body="deberta",
    body_parts=("embeddings", "encoder"),
    architectures={"deberta-v2": "DebertaV2"},
    fresh=("classifier", "pooler", "qa_outputs", "cls.predictions"),
    other_heads=("lm_predictions", "mask_predictions"),
    names={
        "lm.dense": "cls.predictions.transform.dense",
        "lm.norm": "cls.predictions.transform.LayerNorm",
        "lm.bias": "cls.predictions.bias",
    },
)
