"""MPNet: RoBERTa's positions, and a bias by relative position in every attention.

References:
    Song et al., 2020, https://arxiv.org/abs/2004.09297
    The buckets of relative positions: Raffel et al., 2020, section 2.1,
    https://arxiv.org/abs/1910.10683
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from .bert import BertLayer, BertPooler
from .config import EncoderConfig
from .families import Family
from .heads import (
    ClassificationHead,
    EncoderModel,
    FeatureExtractor,
    MaskedLM,
    SequenceClassifier,
    SpanFinder,
    TokenClassifier,
)
from .layers import (
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
    padding_bias,
    run_layers,
    split_heads,
)
from .roberta import positions_without_padding

PADDING_INDEX = 1
"""Where positions begin, whatever ``pad_token_id`` says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPNetConfig(EncoderConfig):
    """Sizes and settings of an MPNet; the defaults are those of mpnet-base.

    Attributes:
        hidden_dropout_prob: Dropout of embeddings and of what each block adds.
        attention_probs_dropout_prob: Dropout of attention probabilities.
        layer_norm_eps: Added to the variance in layer norms.
        relative_attention_num_buckets: Rows of the table of relative positions.

    Examples:
        >>> MPNetConfig().longest_input
        512
    """

    vocab_size: int = 30527
    max_position_embeddings: int = 514
    pad_token_id: int | None = 1
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-5
    relative_attention_num_buckets: int = 32

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("mpnet",)

    @property
    def longest_input(self) -> int:
        """The largest number of tokens of an input."""
        return self.max_position_embeddings - PADDING_INDEX - 1

    @property
    def lm_activation(self) -> str:
        """GELU, whatever the layers have."""
        return "gelu"


@functools.cache
def bucket_table(buckets: int, furthest: int, longest: int) -> np.ndarray:
    """The row of the table of relative positions for distances ``-longest`` to ``longest``, int32.

    A distance is ``query - key``. Half of the rows are for keys after the query. In each half,
    short distances have a row each, longer ones share rows whose widths grow with the logarithm up
    to ``furthest``. Computed once, so that no device's logarithm moves a distance to another row.

    Examples:
        >>> bucket_table(32, 128, 3).tolist()
        [19, 18, 17, 0, 1, 2, 3]
    """
    distance = np.arange(-longest, longest + 1)
    half = buckets // 2
    exact = half // 2
    away = np.abs(distance)
    scale = np.float32(math.log(furthest / exact))
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / scale
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    rows = np.where(distance < 0, half, 0) + np.where(away < exact, away, far)
    return rows.astype(np.int32)


def relative_buckets(
    length: int, longest: int = 512, buckets: int = 32, furthest: int = 128
) -> Int[Array, "l l"]:
    """The row of the table of relative positions, for each query and key.

    Args:
        length: The length; a symbolic one is at most ``longest``.
        longest: The largest length of the model.
        buckets: Rows of the table.
        furthest: The distance from which all share a row.

    Examples:
        >>> print(relative_buckets(4)[0])
        [ 0 17 18 19]
    """
    longest = max(longest, length) if isinstance(length, int) else longest
    positions = jnp.arange(length)
    table = jnp.asarray(bucket_table(buckets, furthest, longest))
    return table[positions[:, None] - positions[None, :] + longest]


class MPNetEmbeddings(nnx.Module):
    """Words and positions, added up and normalized."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        self.word_embeddings = Embedding(config.vocab_size, config, rngs=rngs)
        self.position_embeddings = Embedding(config.max_position_embeddings, config, rngs=rngs)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, input_ids: Ids, position_ids: Ids) -> Hidden:
        """The vectors that the first layer reads."""
        total = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(total))


class MPNetSelfAttention(nnx.Module):
    """Attention of every position to all positions of its own sequence, and its output map."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        self.heads = config.num_attention_heads
        self.q, self.k, self.v, self.o = (
            dense(config.hidden_size, config.hidden_size, config, rngs) for _ in range(4)
        )
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)

    def __call__(
        self, x: Tokens, bias: Float[Array, "batch heads length length"]
    ) -> tuple[Tokens, Scores, Scores]:
        """What each position gathers, the scores and the probabilities."""
        batch, length = bias.shape[0], bias.shape[-1]
        query, key, value = (
            split_heads(project(x), batch, length, self.heads)
            for project in (self.q, self.k, self.v)
        )
        context, scores, probabilities = attend(query, key, value, bias, self.dropout)
        return self.o(context), scores, probabilities


class MPNetAttention(nnx.Module):
    """Self-attention added to its input, and normalized."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        self.attn = MPNetSelfAttention(config, rngs=rngs)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, x: Tokens, bias: Array) -> tuple[Tokens, Scores, Scores]:
        """The block's output, the scores and the probabilities."""
        gathered, scores, probabilities = self.attn(x, bias)
        return self.LayerNorm(self.dropout(gathered) + x), scores, probabilities


class MPNetLayer(BertLayer):
    """Attention, then the feed-forward block."""

    attention_block = MPNetAttention


class RelativeBias(nnx.Module):
    """A bias for each head and bucket of relative positions."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.initializer_range)
        shape = config.relative_attention_num_buckets, config.num_attention_heads
        self.embedding = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.longest = config.max_position_embeddings

    def __call__(self, length: int) -> Float[Array, "1 heads length length"]:
        """The bias of each query and key."""
        rows = relative_buckets(length, self.longest)
        return jnp.take(self.embedding[...], rows, axis=0).transpose(2, 0, 1)[None]


class MPNetEncoder(nnx.Module):
    """The stack of layers, which share the bias by relative position."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        self.layer = nnx.List(
            [MPNetLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.relative_attention_bias = RelativeBias(config, rngs=rngs)

    def __call__(self, x: Hidden, padding: Float[Array, "batch 1 1 length"]) -> Outputs:
        """All hidden states, scores and probabilities."""
        return run_layers(self.layer, x, padding + self.relative_attention_bias(x.shape[1]))


class MPNetModel(nnx.Module):
    """Embeddings, layers and, where it is asked for, a pooler."""

    def __init__(self, config: MPNetConfig, *, pooler: bool, rngs: nnx.Rngs):
        self.embeddings = MPNetEmbeddings(config, rngs=rngs)
        self.encoder = MPNetEncoder(config, rngs=rngs)
        if pooler:
            self.pooler = BertPooler(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """All hidden states, scores and probabilities."""
        if position_ids is None:
            position_ids = positions_without_padding(input_ids, PADDING_INDEX)
        embedded = self.embeddings(input_ids, position_ids)
        return self.encoder(embedded, padding_bias(attention_mask, input_ids))


class MPNetHead(EncoderModel):
    """What all MPNets share: the config, the encoder and the inputs."""

    stack = "mpnet.encoder.layer"
    words = "mpnet.embeddings.word_embeddings"
    pooled: ClassVar[bool] = False
    config: MPNetConfig

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.mpnet = MPNetModel(config, pooler=self.pooled, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """As :class:`~jaxbrewer.models.bert.BertHead`, without token types."""
        ids = self.checked(
            input_ids,
            longest=self.config.longest_input if position_ids is None else None,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        return self.with_head(self.mpnet(ids, attention_mask, position_ids), attention_mask)


class MPNetForSequenceClassification(SequenceClassifier, MPNetHead):
    """An MPNet that gives each sequence ``logits``, ``[batch, labels]``."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.classifier = ClassificationHead(config, jnp.tanh, rngs=rngs)


class MPNetForTokenClassification(TokenClassifier, MPNetHead):
    """An MPNet that gives each token ``logits``, ``[batch, length, labels]``."""


class MPNetForQuestionAnswering(SpanFinder, MPNetHead):
    """An MPNet that finds a span: ``start_logits`` and ``end_logits``, ``[batch, length]``."""


class MPNetForMaskedLM(MaskedLM, MPNetHead):
    """An MPNet that predicts tokens, with a decoder tied to its word embeddings."""


class MPNetForFeatureExtraction(FeatureExtractor, MPNetHead):
    """An MPNet without a head; Hugging Face's ``MPNetModel``."""

    pooled = True


FAMILY = Family(
    config=MPNetConfig,
    heads=(
        MPNetForFeatureExtraction,
        MPNetForSequenceClassification,
        MPNetForTokenClassification,
        MPNetForQuestionAnswering,
        MPNetForMaskedLM,
    ),
    body="mpnet",
    body_parts=("embeddings", "encoder", "pooler"),
    architectures={"mpnet": "MPNet"},
    fresh=("classifier", "qa_outputs", "lm_head", "mpnet.pooler"),
    names={"lm.dense": "lm_head.dense", "lm.norm": "lm_head.layer_norm", "lm.bias": "lm_head.bias"},
)
