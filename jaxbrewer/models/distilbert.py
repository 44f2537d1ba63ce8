"""DistilBERT: a BERT without token types and pooler.

References:
    Sanh et al., 2019, https://arxiv.org/abs/1910.01108
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from .config import EncoderConfig
from .families import Family
from .heads import EncoderModel, FeatureExtractor, MaskedLM, SpanFinder, TokenClassifier
from .layers import (
    ACTIVATIONS,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBertConfig(EncoderConfig):
    """Sizes and settings of a DistilBERT; the defaults are those of distilbert-base.

    Fields have the names of the other families; ``config.json`` calls ``hidden_size`` ``dim``.

    Attributes:
        hidden_dropout_prob: Dropout of embeddings and feed-forward blocks.
        attention_probs_dropout_prob: Dropout of attention probabilities.
        seq_classif_dropout: Dropout before the head of a sequence classifier.
        qa_dropout: Dropout before the head of a span finder.

    Examples:
        >>> DistilBertConfig.from_dict({"dim": 384, "n_layers": 3}).num_hidden_layers
        3
    """

    num_hidden_layers: int = 6
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    seq_classif_dropout: float = 0.2
    qa_dropout: float = 0.1

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("distilbert",)
    FILE_KEYS: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    layer_norm_eps: ClassVar[float] = 1e-12

    def head_dropout(self, task: str) -> float:
        """The dropout rate before the head of a task."""
        rates = {
            "sequence-classification": self.seq_classif_dropout,
            "question-answering": self.qa_dropout,
        }
        return rates.get(task, self.hidden_dropout_prob)


class DistilBertEmbeddings(nnx.Module):
    """Words and positions, added up and normalized."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        self.word_embeddings = Embedding(config.vocab_size, config, rngs=rngs)
        self.position_embeddings = Embedding(config.max_position_embeddings, config, rngs=rngs)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, input_ids: Ids) -> Hidden:
        """The vectors that the first layer reads."""
        positions = jnp.arange(input_ids.shape[1])[None]
        total = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(total))


class DistilBertAttention(nnx.Module):
    """Self-attention and its output map."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        self.heads = config.num_attention_heads
        self.q_lin, self.k_lin, self.v_lin, self.out_lin = (
            dense(config.hidden_size, config.hidden_size, config, rngs) for _ in range(4)
        )
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)

    def __call__(self, x: Tokens, bias: Array) -> tuple[Tokens, Scores, Scores]:
        """What each position gathers, the scores and the probabilities."""
        batch, length = bias.shape[0], bias.shape[-1]
        query, key, value = (
            split_heads(project(x), batch, length, self.heads)
            for project in (self.q_lin, self.k_lin, self.v_lin)
        )
        context, scores, probabilities = attend(query, key, value, bias, self.dropout)
        return self.out_lin(context), scores, probabilities


class DistilBertFeedForward(nnx.Module):
    """Two dense maps with an activation between them."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        self.lin1 = dense(config.hidden_size, config.intermediate_size, config, rngs)
        self.lin2 = dense(config.intermediate_size, config.hidden_size, config, rngs)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        """``lin2(activation(lin1(x)))``."""
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class DistilBertLayer(nnx.Module):
    """Attention, then the feed-forward block, each followed by a norm."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        self.attention = DistilBertAttention(config, rngs=rngs)
        self.sa_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.ffn = DistilBertFeedForward(config, rngs=rngs)
        self.output_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)

    def __call__(self, x: Tokens, bias: Array) -> tuple[Tokens, Scores, Scores]:
        """The layer's output, the scores and the probabilities."""
        context, scores, probabilities = self.attention(x, bias)
        x = self.sa_layer_norm(context + x)
        return self.output_layer_norm(self.ffn(x) + x), scores, probabilities


class DistilBertTransformer(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        self.layer = nnx.List(
            [DistilBertLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )


class DistilBertModel(nnx.Module):
    """Embeddings and layers."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        self.embeddings = DistilBertEmbeddings(config, rngs=rngs)
        self.transformer = DistilBertTransformer(config, rngs=rngs)

    def __call__(self, input_ids: Ids, attention_mask: Mask | None = None) -> Outputs:
        """All hidden states, scores and probabilities."""
        bias = padding_bias(attention_mask, input_ids)
        return run_layers(self.transformer.layer, self.embeddings(input_ids), bias)


class DistilBertHead(EncoderModel):
    """What all DistilBERTs share: the config, the encoder and the inputs."""

    stack = "distilbert.transformer.layer"
    words = "distilbert.embeddings.word_embeddings"
    config: DistilBertConfig

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.distilbert = DistilBertModel(config, rngs=rngs)

    def __call__(self, input_ids: Ids, attention_mask: Mask | None = None) -> Outputs:
        """As :class:`~jaxbrewer.models.bert.BertHead`, without token types."""
        longest = self.config.longest_input
        ids = self.checked(input_ids, longest=longest, attention_mask=attention_mask)
        return self.with_head(self.distilbert(ids, attention_mask), attention_mask)


class DistilBertForSequenceClassification(DistilBertHead):
    """A DistilBERT that gives each sequence ``logits``, ``[batch, labels]``."""

    task = "sequence-classification"

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.pre_classifier = dense(config.hidden_size, config.hidden_size, config, rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)
        self.dropout = nnx.Dropout(config.head_dropout(self.task), rngs=rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of the first position."""
        pooled = nnx.relu(self.pre_classifier(hidden[:, 0]))
        return {"logits": self.classifier(self.dropout(pooled))}


class DistilBertForTokenClassification(TokenClassifier, DistilBertHead):
    """A DistilBERT that gives each token ``logits``, ``[batch, length, labels]``."""


class DistilBertForQuestionAnswering(SpanFinder, DistilBertHead):
    """A DistilBERT that finds a span: ``start_logits`` and ``end_logits``, ``[batch, length]``."""

    def __init__(self, config: DistilBertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.head_dropout(self.task), rngs=rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``start_logits`` and ``end_logits``."""
        return super().head(self.dropout(hidden), mask)


class DistilBertForMaskedLM(MaskedLM, DistilBertHead):
    """A DistilBERT that predicts tokens, with a decoder tied to its word embeddings."""


class DistilBertForFeatureExtraction(FeatureExtractor, DistilBertHead):
    """A DistilBERT without a head; Hugging Face's ``DistilBertModel``."""


FAMILY = Family(
    config=DistilBertConfig,
    heads=(
        DistilBertForFeatureExtraction,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertForQuestionAnswering,
        DistilBertForMaskedLM,
    ),
    body="distilbert",
    body_parts=("embeddings", "transformer"),
    architectures={"distilbert": "DistilBert"},
    fresh=(
        "classifier", "pre_classifier", "qa_outputs", "vocab_transform", "vocab_layer_norm",
        "vocab_projector",
    ),
    names={
        "lm.dense": "vocab_transform",
        "lm.norm": "vocab_layer_norm",
        "lm.bias": "vocab_projector.bias",
    },
)  # fmt: skip
