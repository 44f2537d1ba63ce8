"""BERT: config, encoder and heads.

Modules and attributes are named as in Hugging Face's ``transformers``, so the path of a weight
here, ``bert.encoder.layer.0.attention.self.query.kernel``, is its name in a file there
(``kernel``, ``scale`` and ``embedding`` are called ``weight``).

References:
    Devlin et al., 2019, https://arxiv.org/abs/1810.04805
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .config import EncoderConfig
from .families import Family
from .heads import (
    FeatureExtractor,
    FourInputs,
    MaskedLM,
    SpanFinder,
    TokenClassifier,
    mean_of_tokens,
)
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
class BertConfig(EncoderConfig):
    """Sizes and settings of a BERT; the defaults are those of BERT-base.

    The fields of all families are those of :class:`~jaxbrewer.models.config.EncoderConfig`.

    Attributes:
        hidden_dropout_prob: Dropout of embeddings and of what each block adds.
        attention_probs_dropout_prob: Dropout of attention probabilities.
        classifier_dropout: Dropout before the head; ``None`` means ``hidden_dropout_prob``.
        type_vocab_size: Rows of the token-type embeddings.
        layer_norm_eps: Added to the variance in layer norms.
        classifier_pooling: The input of a sequence classifier: ``"cls"``, the pooler's output for
            the first token, as in ``transformers``; or ``"mean"``, the mean over the tokens, which
            suits encoders of sentences (MiniLM). ``transformers`` does not have the latter, so
            such a classifier has the ``model_type`` ``"mean_pooled_bert"``, which it refuses.

    Raises:
        UsageError: A value has the wrong type, is out of range, or does not fit another.

    Examples:
        >>> BertConfig(hidden_size=128, num_attention_heads=4, labels=("no", "yes")).id2label
        {0: 'no', 1: 'yes'}
        >>> BertConfig(hidden_size=100)
        Traceback (most recent call last):
        jaxbrewer.errors.UsageError: BertConfig hidden_size 100 is not a multiple of
        num_attention_heads 12.
    """

    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    classifier_pooling: str = "cls"

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("bert", "mean_pooled_bert")
    SUPPORTED: ClassVar[dict[str, Any]] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_pooling not in ("cls", "mean"):
            self.refuse("classifier_pooling", "must be 'cls' or 'mean'")
        if self.model_type in BertConfig.MODEL_TYPES:  # families that extend this one have theirs
            means = self.classifier_pooling == "mean"
            object.__setattr__(self, "model_type", "mean_pooled_bert" if means else "bert")

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`EncoderConfig.to_dict`; ``transformers`` has no ``classifier_pooling``."""
        fields = super().to_dict()
        if self.classifier_pooling == "cls":
            del fields["classifier_pooling"]
        return fields


class BertEmbeddings(nnx.Module):
    """Words, token types and positions, added up and normalized."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs, width: int | None = None):
        def table(rows: int) -> Embedding:
            return Embedding(rows, config, rngs=rngs, width=width)

        self.word_embeddings = table(config.vocab_size)
        self.position_embeddings = table(config.max_position_embeddings)
        self.token_type_embeddings = table(config.type_vocab_size)
        self.LayerNorm = LayerNorm(width or config.hidden_size, config.layer_norm_eps, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(
        self, input_ids: Ids, token_type_ids: Ids | None, position_ids: Ids | None
    ) -> Hidden:
        """The vectors that the first layer reads."""
        # What is not given is looked up once, not once per token.
        types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
        positions = jnp.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        total = self.word_embeddings(input_ids) + self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(total + self.position_embeddings(positions)))


class BertSelfAttention(nnx.Module):
    """Attention of every position to all positions of its own sequence."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (
            dense(config.hidden_size, config.hidden_size, config, rngs) for _ in range(3)
        )
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob, rngs=rngs)

    def __call__(
        self, x: Tokens, bias: Float[Array, "batch 1 1 length"]
    ) -> tuple[Tokens, Scores, Scores]:
        """What each position gathers, the scores, and the probabilities (both float32 at least)."""
        batch, length = bias.shape[0], bias.shape[-1]
        query, key, value = (
            split_heads(project(x), batch, length, self.heads)
            for project in (self.query, self.key, self.value)
        )
        return attend(query, key, value, bias, self.dropout)


class BertOutput(nnx.Module):
    """A dense map added to the block's input, and normalized."""

    def __init__(self, inputs: int, config: Any, *, rngs: nnx.Rngs):
        self.dense = dense(inputs, config.hidden_size, config, rngs)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob, rngs=rngs)

    def __call__(self, x: Float[Array, "tokens inputs"], residual: Tokens) -> Tokens:
        """``LayerNorm(residual + dense(x))``."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nnx.Module):
    """Self-attention and its output map."""

    self_attention: ClassVar[type] = BertSelfAttention

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.self = self.self_attention(config, rngs=rngs)
        self.output = BertOutput(config.hidden_size, config, rngs=rngs)

    def __call__(self, x: Tokens, *positions: Any) -> tuple[Tokens, Scores, Scores]:
        """The block's output, the scores and the probabilities."""
        context, scores, probabilities = self.self(x, *positions)
        return self.output(context, x), scores, probabilities


class BertIntermediate(nnx.Module):
    """The first dense map of the feed-forward block, and its activation."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.dense = dense(config.hidden_size, config.intermediate_size, config, rngs)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Tokens) -> Float[Array, "tokens intermediate"]:
        """``activation(dense(x))``."""
        return self.activation(self.dense(x))


class BertLayer(nnx.Module):
    """Attention, then the feed-forward block; other families have other kinds of attention."""

    attention_block: ClassVar[type] = BertAttention

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.attention = self.attention_block(config, rngs=rngs)
        self.intermediate = BertIntermediate(config, rngs=rngs)
        self.output = BertOutput(config.intermediate_size, config, rngs=rngs)

    def __call__(self, x: Tokens, *positions: Any) -> tuple[Tokens, Scores, Scores]:
        """The layer's output, the scores and the probabilities.

        Args:
            x: The hidden states of all tokens.
            positions: What the attention knows of them, such as the bias of padding.
        """
        x, scores, probabilities = self.attention(x, *positions)
        return self.output(self.intermediate(x), x), scores, probabilities


class BertEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.layer = nnx.List(
            [BertLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(self, x: Hidden, bias: Array) -> Outputs:
        """All hidden states, scores and probabilities."""
        return run_layers(self.layer, x, bias)


class BertPooler(nnx.Module):
    """The first position through a dense map and tanh."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.dense = dense(config.hidden_size, config.hidden_size, config, rngs)

    def __call__(self, hidden: Hidden) -> Float[Array, "batch width"]:
        """``tanh(dense(hidden[:, 0]))``."""
        return jnp.tanh(self.dense(hidden[:, 0]))


class BertModel(nnx.Module):
    """Embeddings, encoder and, where the head reads one, a pooler."""

    def __init__(self, config: Any, *, pooler: bool, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, rngs=rngs)
        self.encoder = BertEncoder(config, rngs=rngs)
        if pooler:
            self.pooler = BertPooler(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """All hidden states, scores and probabilities."""
        embedded = self.embeddings(input_ids, token_type_ids, position_ids)
        return self.encoder(embedded, padding_bias(attention_mask, input_ids))


class BertHead(FourInputs):
    """What all BERTs share: the config, the encoder and the inputs."""

    stack = "bert.encoder.layer"
    words = "bert.embeddings.word_embeddings"
    pooled: ClassVar[bool] = False
    config: BertConfig

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        if self.task != "sequence-classification":  # the other heads are those of transformers
            config = dataclasses.replace(config, classifier_pooling="cls")
        super().__init__(config, rngs=rngs)
        pooler = self.pooled and config.classifier_pooling == "cls"
        self.bert = BertModel(config, pooler=pooler, rngs=rngs)


class BertForSequenceClassification(BertHead):
    """A BERT that classifies sequences: ``logits`` ``[batch, labels]``.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=3)
        >>> model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        >>> outputs = model(jnp.ones((4, 7), jnp.int32))
        >>> outputs["logits"].shape, len(outputs["hidden_states"]), outputs["attentions"][0].shape
        ((4, 3), 3, (4, 2, 7, 7))
    """

    task = "sequence-classification"
    pooled = True

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.head_dropout(self.task), rngs=rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of the pooled sequence."""
        if self.config.classifier_pooling == "mean":
            pooled = mean_of_tokens(hidden, mask)
        else:
            pooled = self.bert.pooler(hidden)
        return {"logits": self.classifier(self.dropout(pooled))}


class BertForTokenClassification(TokenClassifier, BertHead):
    """A BERT that classifies tokens: ``logits`` ``[batch, length, labels]``.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=3)
        >>> model = BertForTokenClassification(config, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((4, 7), jnp.int32))["logits"].shape
        (4, 7, 3)
    """


class BertForQuestionAnswering(SpanFinder, BertHead):
    """A BERT that finds a span: logits of its first and of its last token.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> model = BertForQuestionAnswering(config, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((4, 7), jnp.int32))["start_logits"].shape
        (4, 7)
    """


class BertForMaskedLM(MaskedLM, BertHead):
    """A BERT that predicts tokens, with a decoder tied to its word embeddings.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> model = BertForMaskedLM(config, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((4, 7), jnp.int32))["logits"].shape
        (4, 7, 50)
    """


class BertForFeatureExtraction(FeatureExtractor, BertHead):
    """A BERT without a head; Hugging Face's ``BertModel``.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> model = BertForFeatureExtraction(config, rngs=nnx.Rngs(0))
        >>> outputs = model(jnp.ones((4, 7), jnp.int32))
        >>> outputs["last_hidden_state"].shape, outputs["pooler_output"].shape
        ((4, 7, 8), (4, 8))
    """

    pooled = True


FAMILY = Family(
    config=BertConfig,
    heads=(
        BertForFeatureExtraction,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMaskedLM,
    ),
    body="bert",
    body_parts=("embeddings", "encoder", "pooler"),
    architectures={"bert": "Bert", "mean_pooled_bert": "MeanPooledBert"},
    fresh=("classifier", "qa_outputs", "bert.pooler", "cls.predictions"),
    other_heads=("cls",),
    names={
        "lm.dense": "cls.predictions.transform.dense",
        "lm.norm": "cls.predictions.transform.LayerNorm",
        "lm.bias": "cls.predictions.bias",
    },
)
