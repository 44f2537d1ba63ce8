"""The base of all models, encoders with a head for a task, and checks of their inputs."""

import abc
import dataclasses
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..errors import UsageError
from ..losses import LogitsOf
from .config import EncoderConfig
from .layers import ACTIVATIONS, Hidden, Ids, LayerNorm, Mask, Outputs, dense
from .model_types import BARE
from .pooling import Pooling


class TransformerModel(nnx.Module):
    """A model of any family.

    Attributes:
        task: The task of the head, a key of ``TASKS``.
        stack: The path of the list of layers.
        words: The path of the word embeddings.
        config: The family's config.
    """

    task: ClassVar[str]
    stack: ClassVar[str]
    words: ClassVar[str]
    config: Any

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.config = config

    def embedding_table(self) -> Float[Array, "vocabulary width"]:
        """The word embeddings, to which the output map of a language model may be tied."""
        return operator.attrgetter(self.words)(self).embedding[...]

    def checked(self, input_ids: Any, *, longest: int | None, **others: Any) -> Ids:
        """Checks all inputs and returns ``input_ids`` as an array.

        Args:
            input_ids: Token ids.
            longest: The largest length; ``None`` if another input lifts the limit.
            others: Inputs that must have the shape of ``input_ids``, or ``None``.

        Raises:
            UsageError: ``input_ids`` is not a matrix of integers, is too long, or another input
                does not fit it.
        """
        ids = jnp.asarray(input_ids)
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise UsageError(
                f"input_ids must be integers [batch, length], got {ids.dtype}{list(ids.shape)}."
            )
        length = ids.shape[1]
        # The length of an exported program may be symbolic, and is then not checked.
        if longest is not None and isinstance(length, int) and length > longest:
            raise UsageError(
                f"input_ids are {length} tokens long, the model has {longest} positions "
                "(max_position_embeddings): truncate the texts."
            )
        for name, value in others.items():
            if value is not None and jnp.shape(value) != ids.shape:
                raise UsageError(
                    f"{name} must have the shape of input_ids, {list(ids.shape)}, "
                    f"got {list(jnp.shape(value))}."
                )
        return ids


class EncoderModel(TransformerModel):
    """An encoder and a head.

    A subclass per family makes the encoder, under the name that it has in Hugging Face's files, and
    names its inputs; a subclass of that per task makes the head and computes :meth:`head`.
    """

    config: EncoderConfig

    @property
    def body(self) -> Any:
        """The encoder without a head."""
        return getattr(self, self.stack.partition(".")[0])

    @abc.abstractmethod
    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """Computes the head's outputs from the last hidden states."""

    def with_head(
        self, outputs: Outputs, mask: Mask | None, last_hidden: Hidden | None = None
    ) -> Outputs:
        """The encoder's outputs and the head's; ``last_hidden`` where a norm follows the layers."""
        hidden = outputs["hidden_states"][-1] if last_hidden is None else last_hidden
        return {**self.head(hidden, mask), **outputs}


def mean_of_tokens(hidden: Hidden, mask: Mask | None) -> Float[Array, "batch width"]:
    """The mean over the positions where ``mask`` is not 0."""
    if mask is None:
        return jnp.mean(hidden, axis=1)
    weights = (mask != 0).astype(hidden.dtype)
    counts = jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1)
    return jnp.einsum("bld,bl->bd", hidden, weights) / counts


def pooled(hidden: Hidden, mask: Mask | None, mode: str) -> Float[Array, "batch width"]:
    """One vector of each sequence.

    Args:
        hidden: The last hidden states.
        mask: 0 at padding, which follows the tokens; ``None`` for no padding.
        mode: One of :data:`~jaxbrewer.models.pooling.POOLINGS`.

    Examples:
        >>> hidden, mask = jnp.arange(6.0).reshape(1, 3, 2), jnp.array([[1, 1, 0]])
        >>> [pooled(hidden, mask, mode)[0].tolist() for mode in ("mean", "cls", "max", "lasttoken")]
        [[1.0, 2.0], [0.0, 1.0], [2.0, 3.0], [2.0, 3.0]]
    """
    if mode == "mean":
        return mean_of_tokens(hidden, mask)
    if mode == "cls":
        return hidden[:, 0]
    valid = jnp.ones(hidden.shape[:2], bool) if mask is None else mask != 0
    if mode == "max":
        return jnp.max(jnp.where(valid[..., None], hidden, -1e9), axis=1)
    last = jnp.maximum(jnp.sum(valid, axis=1) - 1, 0)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def per_token(head: Any, hidden: Hidden) -> Float[Array, "batch length outputs"]:
    """A head applied to each position, as to a matrix."""
    batch, length, width = hidden.shape
    outputs = head(hidden.reshape(batch * length, width))
    return outputs.reshape(batch, length, outputs.shape[-1])


_OF_EMBEDDINGS: dict[str, Callable[[Array], Array]] = {**ACTIVATIONS, "identity": lambda x: x}
"""The activations of a dense map after a pooling, by name."""


class FeatureExtractor(EncoderModel):
    """An encoder without a head.

    Its outputs are ``last_hidden_state``, ``[batch, length, width]``, and, where the family has a
    pooler, ``pooler_output``, ``[batch, width]``. With a ``pooling`` in its config it has
    ``embedding`` as well, ``[batch, width]`` or of the width of its dense map.
    """

    task = BARE
    embedding_map: nnx.Linear

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        pooling = config.pooling
        if pooling is not None and pooling.width is not None:
            self.embedding_map = dense(
                config.hidden_size, pooling.width, config, rngs, use_bias=pooling.bias
            )

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """The last hidden states, and the pooled sequence."""
        features = {"last_hidden_state": hidden}
        if hasattr(self.body, "pooler"):
            features["pooler_output"] = self.body.pooler(hidden)
        if self.config.pooling is not None:
            features["embedding"] = self._embedding(hidden, mask, self.config.pooling)
        return features

    def _embedding(
        self, hidden: Hidden, mask: Mask | None, pooling: Pooling
    ) -> Float[Array, "batch embedding"]:
        embedding = pooled(hidden, mask, pooling.mode)
        if pooling.width is not None:
            embedding = _OF_EMBEDDINGS[pooling.activation](self.embedding_map(embedding))
        if pooling.normalize:
            norms = jnp.sqrt(jnp.sum(jnp.square(embedding), axis=-1, keepdims=True))
            embedding = embedding / jnp.maximum(norms, 1e-12)
        return embedding


class FourInputs(EncoderModel):
    """An encoder that reads BERT's four inputs."""

    def default_positions(self, input_ids: Ids) -> Ids | None:
        """The ``position_ids`` where none are given; ``None`` for 0, 1, 2, ..."""
        return None

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """Returns the head's outputs and all inner states; under ``jit``, unused ones cost nothing.

        Args:
            input_ids: Token ids.
            attention_mask: 0 at padding; ``None`` for no padding.
            token_type_ids: ``None`` for all 0.
            position_ids: ``None`` for those of the family.

        Returns:
            The head's outputs (see the class); ``hidden_states``, a tuple of the embeddings and
            each layer's output, ``[batch, length, width]``; ``attention_scores`` and
            ``attentions``, per layer ``[batch, heads, query, key]``, before and after the softmax,
            float32 at least. Scores of padded keys are ``PADDING_SCORE``.

        Raises:
            UsageError: The inputs do not fit each other or the model.
        """
        ids = self.checked(
            input_ids,
            longest=self.config.longest_input if position_ids is None else None,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
        )
        if position_ids is None:
            position_ids = self.default_positions(ids)
        return self.with_head(
            self.body(ids, attention_mask, token_type_ids, position_ids), attention_mask
        )


class ClassificationHead(nnx.Module):
    """The first position through a dense map, an activation and the output map."""

    def __init__(
        self, config: EncoderConfig, activation: Callable[[Array], Array], *, rngs: nnx.Rngs
    ):
        self.dense = dense(config.hidden_size, config.hidden_size, config, rngs)
        self.dropout = nnx.Dropout(config.head_dropout("sequence-classification"), rngs=rngs)
        self.out_proj = dense(config.hidden_size, config.num_labels, config, rngs)
        self.activation = activation

    def __call__(self, hidden: Hidden) -> Float[Array, "batch labels"]:
        """The logits of each sequence."""
        x = self.activation(self.dense(self.dropout(hidden[:, 0])))
        return self.out_proj(self.dropout(x))


class SequenceClassifier(EncoderModel):
    """A model that gives each sequence ``logits``, ``[batch, labels]``, by a head of its family."""

    task = "sequence-classification"
    classifier: Any

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of each sequence."""
        return {"logits": self.classifier(hidden)}


class TokenClassifier(EncoderModel):
    """A model that gives each token ``logits``, ``[batch, length, labels]``."""

    task = "token-classification"

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.head_dropout(self.task), rngs=rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of each token."""
        return {"logits": per_token(self.classifier, self.dropout(hidden))}


class SpanFinder(EncoderModel):
    """A model that finds a span: logits of its first and of its last token.

    ``start_logits`` and ``end_logits`` are ``[batch, length]``; positions of padding or of the
    question are not ruled out. ``num_labels`` of the config is always 2.
    """

    task = "question-answering"

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        super().__init__(dataclasses.replace(config, num_labels=2, labels=None), rngs=rngs)
        self.qa_outputs = dense(config.hidden_size, 2, config, rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``start_logits`` and ``end_logits``."""
        logits = per_token(self.qa_outputs, hidden)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


class MaskedLM(EncoderModel):
    """A model that gives each token ``logits``, ``[batch, length, vocabulary]``.

    The decoder is tied to the word embeddings.
    """

    task = "masked-language-modeling"

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        if not config.tie_word_embeddings:
            config.refuse("tie_word_embeddings", "must be true for a masked language model")
        super().__init__(config, rngs=rngs)
        self.lm = MaskedLMHead(config, rngs=rngs)

    def head(self, hidden: Hidden, mask: Mask | None) -> Outputs:
        """``logits`` of each token, and ``logits_of``, what they are computed from."""
        features, table = per_token(self.lm, hidden), self.embedding_table()
        return tied_logits(features, table, self.lm.bias[...])


class MaskedLMHead(nnx.Module):
    """A dense map, an activation and a norm before the tied decoder."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        width = config.embedding_width
        self.dense = dense(config.hidden_size, width, config, rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps, rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        self.activation = ACTIVATIONS[config.lm_activation]

    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens embedding"]:
        """What the decoder multiplies with the table of word embeddings."""
        return self.norm(self.activation(self.dense(x)))


def tied_logits(
    features: Float[Array, "batch length embedding"],
    table: Float[Array, "vocabulary embedding"],
    bias: Float[Array, " vocabulary"] | None,
) -> Outputs:
    """``logits`` by a decoder that is tied to the word embeddings, and their parts ``logits_of``.

    Under ``jit`` the one that is not used costs nothing.
    """
    table = table.astype(features.dtype)
    bias = None if bias is None else bias.astype(features.dtype)

    def decode(x: Float[Array, "tokens embedding"]) -> Float[Array, "tokens vocabulary"]:
        logits = x @ table.T
        return logits if bias is None else logits + bias[None]

    return {
        "logits": per_token(decode, features),
        "logits_of": LogitsOf(features, table, bias, tied=True),
    }
