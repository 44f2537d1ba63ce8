"""Encoders of sentences: any encoder with a pooling in place of its head."""

import dataclasses
from typing import Any

from ..errors import UsageError
from ..models import TransformerModel
from ..models.building import without_arrays
from ..models.families import family_of
from ..models.model_types import BARE
from ..models.pooling import Pooling

OUTPUTS = ("embedding", "last_hidden_state")
"""The outputs of an encoder of sentences that an artifact has."""


def sentence_encoder(model: TransformerModel, mode: str | None = None) -> TransformerModel:
    """The model without its head, with a pooling; it shares the arrays of the model.

    Args:
        model: The model. The pooling of its config is kept unless ``mode`` is given.
        mode: One of :data:`~jaxbrewer.models.pooling.POOLINGS`; ``"mean"`` by default. Embeddings
            are scaled to length 1.

    Raises:
        UsageError: The family has no encoder without a head.

    Examples:
        >>> from flax import nnx
        >>> from jaxbrewer.models import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        >>> type(sentence_encoder(model)).__name__
        'BertForFeatureExtraction'
    """
    config: Any = model.config
    family = family_of(config.model_type)
    if BARE not in family.by_task:
        raise UsageError(f"A {config.model_type} for {model.task} is no encoder of sentences.")
    if mode is None and getattr(config, "pooling", None) is not None:
        return model
    pooled = dataclasses.replace(config, pooling=Pooling(mode=mode or "mean", normalize=True))
    encoder: TransformerModel = without_arrays(family.by_task[BARE], pooled)
    setattr(encoder, family.body, getattr(model, family.body))
    return encoder
