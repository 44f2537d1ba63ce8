"""ModernBERT: rotary positions, gated feed-forward blocks, local and global attention.

References:
    Warner et al., 2024, https://arxiv.org/abs/2412.13663
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..errors import UsageError
from .config import ACTIVATION_NAMES, EncoderConfig
from .families import Family
from .heads import EncoderModel, FeatureExtractor, mean_of_tokens, per_token, tied_logits
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
)
from .rotary import Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig(EncoderConfig):
    """Sizes and settings of a ModernBERT; the defaults are those of ModernBERT-base.

    Attributes:
        embedding_dropout: Dropout of the embeddings.
        attention_dropout: Dropout of attention probabilities and of attention's output.
        mlp_dropout: Dropout inside the feed-forward block.
        classifier_dropout: Dropout before the head.
        norm_eps: Added to the variance in layer norms.
        norm_bias: Whether layer norms have a bias.
        attention_bias: Whether attention's dense maps have a bias.
        mlp_bias: Whether the feed-forward maps have a bias.
        decoder_bias: Whether the decoder of a masked language model has a bias.
        classifier_bias: Whether the map before the head has a bias.
        classifier_activation: The activation there.
        classifier_pooling: What a sequence classifier looks at: the first position (``"cls"``) or
            the mean over the tokens (``"mean"``).
        global_attn_every_n_layers: Layers 0, n, 2n, ... see the whole sequence, others a window.
        local_attention: Width of the window.
        global_rope_theta: Base of the rotary positions of global layers.
        local_rope_theta: The same of local layers; ``None`` for that of global ones.

    Examples:
        >>> [ModernBertConfig().is_global(layer) for layer in range(4)]
        [True, False, False, True]
    """

    vocab_size: int = 50368
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    max_position_embeddings: int = 8192
    pad_token_id: int | None = 50283
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    classifier_dropout: float = 0.0
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    decoder_bias: bool = True
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"
    global_attn_every_n_layers: int = 3
    local_attention: int = 128
    global_rope_theta: float = 160000.0
    local_rope_theta: float | None = 10000.0

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("modernbert",)
    FILE_KEYS: ClassVar[dict[str, str]] = {"hidden_act": "hidden_activation"}
    SUPPORTED: ClassVar[dict[str, Any]] = {"sparse_prediction": False}
    CHECKED: ClassVar[dict[str, Any]] = {"rope_scaling": None}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_pooling not in ("cls", "mean"):
            self.refuse("classifier_pooling", "must be 'cls' or 'mean'")
        if self.classifier_activation not in ACTIVATION_NAMES:
            self.refuse("classifier_activation", f"must be one of {', '.join(ACTIVATION_NAMES)}")

    def is_global(self, layer: int) -> bool:
        """Whether a layer sees the whole sequence."""
        return layer % self.global_attn_every_n_layers == 0

    def theta(self, layer: int) -> float:
        """The base of a layer's rotary positions."""
        if self.is_global(layer) or self.local_rope_theta is None:
            return self.global_rope_theta
        return self.local_rope_theta

    def fields_of_layers(self, layers: Sequence[int]) -> dict[str, Any]:
        """``global_attn_every_n_layers`` of a model that keeps only these layers.

        Raises:
            UsageError: The first is not layer 0, which has no norm before its attention; or the
                kept layers are not global every n layers.
        """
        if layers[0] != 0:
            raise UsageError(
                f"layers {list(layers)!r} must begin with 0: the first layer of a ModernBERT has "
                "no norm before its attention."
            )
        kinds = [self.is_global(layer) for layer in layers]
        for every in range(1, len(kinds) + 1):
            if kinds == [place % every == 0 for place in range(len(kinds))]:
                return {"global_attn_every_n_layers": every}
        every = self.global_attn_every_n_layers
        raise UsageError(
            f"layers {list(layers)!r} keep global and local layers in an order that a ModernBERT "
            f"cannot have, global every n layers: take every layer of a range, or only multiples "
            f"of {every}."
        )


class ModernBertEmbeddings(nnx.Module):
    """Words, normalized."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        self.tok_embeddings = Embedding(config.vocab_size, config, rngs=rngs)
        self.norm = _norm(config, rngs)
        self.drop = nnx.Dropout(config.embedding_dropout, rngs=rngs)

    def __call__(self, input_ids: Ids) -> Hidden:
        """The vectors that the first layer reads."""
        return self.drop(self.norm(self.tok_embeddings(input_ids)))


class ModernBertAttention(nnx.Module):
    """Attention with rotary positions and its output map."""

    def __init__(self, config: ModernBertConfig, layer: int, *, rngs: nnx.Rngs):
        width, use_bias = config.hidden_size, config.attention_bias
        self.Wqkv = dense(width, 3 * width, config, rngs, use_bias=use_bias)
        self.Wo = dense(width, width, config, rngs, use_bias=use_bias)
        self.dropout = nnx.Dropout(config.attention_dropout, rngs=rngs)
        self.out_drop = nnx.Dropout(config.attention_dropout, rngs=rngs)
        self.heads = config.num_attention_heads
        longest = config.max_position_embeddings
        self.rope = Rope(width // self.heads, config.theta(layer), longest)

    def __call__(
        self, x: Tokens, bias: Float[Array, "batch 1 length length"]
    ) -> tuple[Tokens, Scores, Scores]:
        """What each position gathers, the scores and the probabilities."""
        batch, length = bias.shape[0], bias.shape[-1]
        size = x.shape[-1] // self.heads
        joint = self.Wqkv(x).reshape(batch, length, 3, self.heads, size)
        rotation = self.rope.rotation(jnp.arange(length)[None])
        query, key = (rotation(joint[:, :, part]) for part in (0, 1))
        context, scores, probabilities = attend(query, key, joint[:, :, 2], bias, self.dropout)
        return self.out_drop(self.Wo(context)), scores, probabilities


class ModernBertMLP(nnx.Module):
    """A gated feed-forward block."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        width, inner, use_bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.Wi = dense(width, 2 * inner, config, rngs, use_bias=use_bias)
        self.Wo = dense(inner, width, config, rngs, use_bias=use_bias)
        self.drop = nnx.Dropout(config.mlp_dropout, rngs=rngs)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Tokens) -> Tokens:
        """``Wo(activation(input) * gate)``."""
        inner, gate = jnp.split(self.Wi(x), 2, axis=-1)
        return self.Wo(self.drop(self.activation(inner) * gate))


class ModernBertLayer(nnx.Module):
    """Attention and the feed-forward block, each on normalized input and added to it."""

    def __init__(self, config: ModernBertConfig, layer: int, *, rngs: nnx.Rngs):
        if layer:  # the embeddings are normalized already
            self.attn_norm = _norm(config, rngs)
        self.attn = ModernBertAttention(config, layer, rngs=rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = ModernBertMLP(config, rngs=rngs)
        self.is_global = config.is_global(layer)

    def __call__(
        self, x: Tokens, everywhere: Array, window: Array
    ) -> tuple[Tokens, Scores, Scores]:
        """The layer's output, the scores and the probabilities."""
        normed = self.attn_norm(x) if hasattr(self, "attn_norm") else x
        bias = everywhere if self.is_global else window
        gathered, scores, probabilities = self.attn(normed, bias)
        x = x + gathered
        return x + self.mlp(self.mlp_norm(x)), scores, probabilities


class ModernBertModel(nnx.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        self.embeddings = ModernBertEmbeddings(config, rngs=rngs)
        self.layers = nnx.List(
            [ModernBertLayer(config, layer, rngs=rngs) for layer in range(config.num_hidden_layers)]
        )
        self.final_norm = _norm(config, rngs)
        self.window = config.local_attention // 2

    def __call__(self, input_ids: Ids, attention_mask: Mask | None = None) -> Outputs:
        """All hidden states before the final norm, scores and probabilities."""
        length = input_ids.shape[1]
        mask = jnp.ones_like(input_ids) if attention_mask is None else jnp.asarray(attention_mask)
        valid = jnp.broadcast_to(
            (mask != 0)[:, None, None, :], (input_ids.shape[0], 1, length, length)
        )
        positions = jnp.arange(length)
        near = jnp.abs(positions[:, None] - positions[None, :]) <= self.window
        everywhere = jnp.where(valid, 0.0, PADDING_SCORE)
        window = jnp.where(valid & near[None, None], 0.0, PADDING_SCORE)
        return run_layers(self.layers, self.embeddings(input_ids), everywhere, window)


class ModernBertPredictionHead(nnx.Module):
    """A dense map, an activation and a norm before the output map."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.dense = dense(width, width, config, rngs, use_bias=config.classifier_bias)
        self.norm = _norm(config, rngs)
        self.activation = ACTIVATIONS[config.classifier_activation]

    def __call__(self, x: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
        """``norm(activation(dense(x)))``."""
        return self.norm(self.activation(self.dense(x)))


class ModernBertEncoder(EncoderModel):
    """What all ModernBERTs share: the config, the encoder and the inputs."""

    stack = "model.layers"
    words = "model.embeddings.tok_embeddings"
    config: ModernBertConfig

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.model = ModernBertModel(config, rngs=rngs)

    def __call__(self, input_ids: Ids, attention_mask: Mask | None = None) -> Outputs:
        """As :class:`~jaxbrewer.models.bert.BertHead`, without token types.

        The last of ``hidden_states`` precedes the final norm, which the head applies.
        """
        longest = self.config.longest_input
        ids = self.checked(input_ids, longest=longest, attention_mask=attention_mask)
        outputs = self.model(ids, attention_mask)
        last = self.model.final_norm(outputs["hidden_states"][-1])
        return self.with_head(outputs, attention_mask, last)


class ModernBertHead(ModernBertEncoder):
    """What all ModernBERTs with a head share: the prediction head."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.prediction_head = ModernBertPredictionHead(config, rngs=rngs)
        self.drop = nnx.Dropout(config.classifier_dropout, rngs=rngs)


class ModernBertForSequenceClassification(ModernBertHead):
    """A ModernBERT that gives each sequence ``logits``, ``[batch, labels]``."""

    task = "sequence-classification"

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of the pooled sequence."""
        is_mean = self.config.classifier_pooling == "mean"
        pooled = mean_of_tokens(hidden, mask) if is_mean else hidden[:, 0]
        return {"logits": self.classifier(self.drop(self.prediction_head(pooled)))}


class ModernBertForTokenClassification(ModernBertHead):
    """A ModernBERT that gives each token ``logits``, ``[batch, length, labels]``."""

    task = "token-classification"

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of each token."""
        return {
            "logits": per_token(
                lambda x: self.classifier(self.drop(self.prediction_head(x))), hidden
            )
        }


class ModernBertForQuestionAnswering(ModernBertForTokenClassification):
    """A ModernBERT that finds a span: ``start_logits`` and ``end_logits``, ``[batch, length]``."""

    task = "question-answering"

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        super().__init__(dataclasses.replace(config, num_labels=2, labels=None), rngs=rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``start_logits`` and ``end_logits``."""
        logits = super().head(hidden, mask)["logits"]
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


class ModernBertForMaskedLM(ModernBertHead):
    """A ModernBERT that predicts tokens, with a decoder tied to its word embeddings."""

    task = "masked-language-modeling"

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        if not config.tie_word_embeddings:
            config.refuse("tie_word_embeddings", "must be true for a masked language model")
        super().__init__(config, rngs=rngs)
        if config.decoder_bias:
            self.decoder_bias = nnx.Param(jnp.zeros(config.vocab_size))

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of each token, and ``logits_of``, what they are computed from."""
        bias = self.decoder_bias[...] if self.config.decoder_bias else None
        features = per_token(self.prediction_head, hidden)
        return tied_logits(features, self.embedding_table(), bias)


class ModernBertForFeatureExtraction(FeatureExtractor, ModernBertEncoder):
    """A ModernBERT without a head; Hugging Face's ``ModernBertModel``."""


def _norm(config: ModernBertConfig, rngs: nnx.Rngs) -> LayerNorm:
    return LayerNorm(config.hidden_size, config.norm_eps, rngs, use_bias=config.norm_bias)


FAMILY = Family(
    config=ModernBertConfig,
    heads=(
        ModernBertForFeatureExtraction,
        ModernBertForSequenceClassification,
        ModernBertForTokenClassification,
        ModernBertForQuestionAnswering,
        ModernBertForMaskedLM,
    ),
    body="model",
    body_parts=("embeddings", "layers", "final_norm"),
    architectures={"modernbert": "ModernBert"},
    fresh=("head", "classifier", "decoder"),
    names={"prediction_head": "head", "decoder_bias": "decoder.bias"},
)
