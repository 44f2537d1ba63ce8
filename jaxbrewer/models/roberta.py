"""RoBERTa, XLM-RoBERTa and CamemBERT: a BERT whose positions skip padding, with other heads.

References:
    Liu et al., 2019, https://arxiv.org/abs/1907.11692
    Conneau et al., 2020 (XLM-RoBERTa), https://arxiv.org/abs/1911.02116
    Martin et al., 2020 (CamemBERT), https://arxiv.org/abs/1911.03894
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from .bert import BertConfig, BertModel
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
from .layers import Ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """Sizes and settings of a RoBERTa; the defaults are those of RoBERTa-base.

    ``max_position_embeddings`` counts ``pad_token_id + 1`` rows that no token uses, so the longest
    input is :attr:`longest_input`.

    Examples:
        >>> RobertaConfig().longest_input
        512
    """

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta", "camembert")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_pooling != "cls":
            self.refuse("classifier_pooling", "must be 'cls'")
        if self.pad_token_id is None or self.longest_input < 1:
            self.refuse("pad_token_id", "must be below max_position_embeddings - 1")

    @property
    def longest_input(self) -> int:
        """The largest number of tokens of an input."""
        return self.max_position_embeddings - (self.pad_token_id or 0) - 1

    @property
    def lm_activation(self) -> str:
        """GELU, whatever the layers have."""
        return "gelu"


def positions_without_padding(input_ids: Ids, pad_token_id: int) -> Ids:
    """Positions that count the tokens that are not padding, from ``pad_token_id + 1``.

    Examples:
        >>> print(positions_without_padding(jnp.array([[7, 8, 1, 1]]), 1))
        [[2 3 1 1]]
    """
    is_token = (input_ids != pad_token_id).astype(jnp.int32)
    return jnp.cumsum(is_token, axis=1) * is_token + pad_token_id


class RobertaHead(FourInputs):
    """What all RoBERTas share: the config, the encoder and the inputs."""

    stack = "roberta.encoder.layer"
    words = "roberta.embeddings.word_embeddings"
    pooled: ClassVar[bool] = False
    config: RobertaConfig

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.roberta = BertModel(config, pooler=self.pooled, rngs=rngs)

    def default_positions(self, input_ids: Ids) -> Ids:
        """Positions that count the tokens that are not ``pad_token_id``."""
        return positions_without_padding(input_ids, self.config.pad_token_id or 0)


class RobertaForSequenceClassification(SequenceClassifier, RobertaHead):
    """A RoBERTa that gives each sequence ``logits``, ``[batch, labels]``."""

    def __init__(self, config: RobertaConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.classifier = ClassificationHead(config, jnp.tanh, rngs=rngs)


class RobertaForTokenClassification(TokenClassifier, RobertaHead):
    """A RoBERTa that gives each token ``logits``, ``[batch, length, labels]``."""


class RobertaForQuestionAnswering(SpanFinder, RobertaHead):
    """A RoBERTa that finds a span: ``start_logits`` and ``end_logits``, ``[batch, length]``."""


class RobertaForMaskedLM(MaskedLM, RobertaHead):
    """A RoBERTa that predicts tokens, with a decoder tied to its word embeddings."""


class RobertaForFeatureExtraction(FeatureExtractor, RobertaHead):
    """A RoBERTa without a head; Hugging Face's ``RobertaModel``."""

    pooled = True


FAMILY = Family(
    config=RobertaConfig,
    heads=(
        RobertaForFeatureExtraction,
        RobertaForSequenceClassification,
        RobertaForTokenClassification,
        RobertaForQuestionAnswering,
        RobertaForMaskedLM,
    ),
    body="roberta",
    body_parts=("embeddings", "encoder", "pooler"),
    architectures={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
    fresh=("classifier", "qa_outputs", "lm_head", "roberta.pooler"),
    names={"lm.dense": "lm_head.dense", "lm.norm": "lm_head.layer_norm", "lm.bias": "lm_head.bias"},
)
