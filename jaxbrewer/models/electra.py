"""ELECTRA: a BERT whose word embeddings may be narrower than its layers.

A masked language model is ELECTRA's generator; the other heads belong to its discriminator.

References:
    Clark et al., 2020, https://arxiv.org/abs/2003.10555
"""

import dataclasses
from typing import ClassVar

from flax import nnx

from .bert import BertConfig, BertEmbeddings, BertEncoder
from .families import Family
from .heads import (
    ClassificationHead,
    FeatureExtractor,
    FourInputs,
    MaskedLM,
    SequenceClassifier,
    SpanFinder,
    TokenClassifier,
)
from .layers import Ids, Mask, Outputs, dense, gelu, padding_bias


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElectraConfig(BertConfig):
    """Sizes and settings of an ELECTRA; the defaults are those of ELECTRA-small.

    Attributes:
        embedding_size: Width of the embeddings; a dense map brings them to ``hidden_size``.

    Examples:
        >>> ElectraConfig().embedding_width
        128
    """

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = 128

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("electra",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_pooling != "cls":
            self.refuse("classifier_pooling", "must be 'cls'")

    @property
    def embedding_width(self) -> int:
        """The width of the word embeddings."""
        return self.embedding_size

    @property
    def lm_activation(self) -> str:
        """GELU, whatever the layers have."""
        return "gelu"


class ElectraModel(nnx.Module):
    """Embeddings, the map to the layers' width, and the layers."""

    def __init__(self, config: ElectraConfig, *, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, rngs=rngs, width=config.embedding_size)
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = dense(config.embedding_size, config.hidden_size, config, rngs)
        self.encoder = BertEncoder(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """All hidden states, scores and probabilities."""
        embedded = self.embeddings(input_ids, token_type_ids, position_ids)
        if hasattr(self, "embeddings_project"):
            embedded = self.embeddings_project(embedded)
        return self.encoder(embedded, padding_bias(attention_mask, input_ids))


class ElectraHead(FourInputs):
    """What all ELECTRAs share: the config, the encoder and the inputs."""

    stack = "electra.encoder.layer"
    words = "electra.embeddings.word_embeddings"
    config: ElectraConfig

    def __init__(self, config: ElectraConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.electra = ElectraModel(config, rngs=rngs)


class ElectraForSequenceClassification(SequenceClassifier, ElectraHead):
    """An ELECTRA that gives each sequence ``logits``, ``[batch, labels]``."""

    def __init__(self, config: ElectraConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.classifier = ClassificationHead(config, gelu, rngs=rngs)


class ElectraForTokenClassification(TokenClassifier, ElectraHead):
    """An ELECTRA that gives each token ``logits``, ``[batch, length, labels]``."""


class ElectraForQuestionAnswering(SpanFinder, ElectraHead):
    """An ELECTRA that finds a span: ``start_logits`` and ``end_logits``, ``[batch, length]``."""


class ElectraForMaskedLM(MaskedLM, ElectraHead):
    """ELECTRA's generator, with a decoder tied to its word embeddings."""


class ElectraForFeatureExtraction(FeatureExtractor, ElectraHead):
    """An ELECTRA without a head; Hugging Face's ``ElectraModel``."""


FAMILY = Family(
    config=ElectraConfig,
    heads=(
        ElectraForFeatureExtraction,
        ElectraForSequenceClassification,
        ElectraForTokenClassification,
        ElectraForQuestionAnswering,
        ElectraForMaskedLM,
    ),
    body="electra",
    body_parts=("embeddings", "embeddings_project", "encoder"),
    architectures={"electra": "Electra"},
    fresh=("classifier", "qa_outputs", "generator_predictions", "generator_lm_head"),
    other_heads=("discriminator_predictions",),
    names={
        "lm.dense": "generator_predictions.dense",
        "lm.norm": "generator_predictions.LayerNorm",
        "lm.bias": "generator_lm_head.bias",
    },
)
