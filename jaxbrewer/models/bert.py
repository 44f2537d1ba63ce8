"""BERT with a head: for sequences, for tokens, for spans; and students cut out of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Shaped

from ..errors import UsageError
from .config import BertConfig
from .encoder import BertModel, Ids, Outputs, dense


class BertHead(nnx.Module):
    """What the models below share: a config, an encoder, and the checks of their inputs."""

    task: ClassVar[str]
    pooled: ClassVar[bool] = False

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.config = config
        pooler = self.pooled and config.classifier_pooling == "cls"
        self.bert = BertModel(config, pooler=pooler, rngs=rngs)

    def encode(
        self, input_ids: Any, attention_mask: Any, token_type_ids: Any, position_ids: Any
    ) -> Outputs:
        """The encoder's outputs for inputs of fitting shapes.

        Raises:
            UsageError: ``input_ids`` is not a matrix of integers, is longer than the positions
                there are, or another input does not fit it.
        """
        ids = jnp.asarray(input_ids)
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise UsageError(
                f"input_ids must be integers [batch, length], got {ids.dtype}{list(ids.shape)}."
            )
        longest = self.config.max_position_embeddings
        if position_ids is None and ids.shape[1] > longest:
            raise UsageError(
                f"input_ids are {ids.shape[1]} tokens long, the model has {longest} positions "
                "(max_position_embeddings): truncate the texts."
            )
        others = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
        }
        for name, value in others.items():
            if value is not None and jnp.shape(value) != ids.shape:
                raise UsageError(
                    f"{name} must have the shape of input_ids, {list(ids.shape)}, "
                    f"got {list(jnp.shape(value))}."
                )
        return self.bert(ids, attention_mask, token_type_ids, position_ids)


class BertForSequenceClassification(BertHead):
    """A BERT that gives each sequence one set of logits.

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
        self.dropout = _dropout(config, rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Shaped[Array, "batch length"] | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """Logits and everything on the way to them; what is not used costs nothing under jit.

        Args:
            input_ids: Token ids.
            attention_mask: 0 at padding; ``None`` if there is none.
            token_type_ids: ``None`` for all 0.
            position_ids: ``None`` for 0, 1, 2, ...

        Returns:
            ``logits``, ``[batch, labels]``; ``hidden_states``, a tuple of the embeddings and each
            layer's output, ``[batch, length, width]``; ``attention_scores`` and ``attentions``,
            per layer ``[batch, heads, query, key]``, before and after the softmax, float32 at
            least. Scores of padded keys are ``PADDING_SCORE``.

        Raises:
            UsageError: The inputs do not fit each other or the model.
        """
        outputs = self.encode(input_ids, attention_mask, token_type_ids, position_ids)
        hidden = outputs["hidden_states"][-1]
        if self.config.classifier_pooling == "mean":
            pooled = _mean_of_tokens(hidden, attention_mask)
        else:
            pooled = self.bert.pooler(hidden)
        return {"logits": self.classifier(self.dropout(pooled)), **outputs}


class BertForTokenClassification(BertHead):
    """A BERT that gives each token logits.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=3)
        >>> model = BertForTokenClassification(config, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((4, 7), jnp.int32))["logits"].shape
        (4, 7, 3)
    """

    task = "token-classification"

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.dropout = _dropout(config, rngs)
        self.classifier = dense(config.hidden_size, config.num_labels, config, rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Shaped[Array, "batch length"] | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """As :class:`BertForSequenceClassification`; ``logits`` are ``[batch, length, labels]``."""
        outputs = self.encode(input_ids, attention_mask, token_type_ids, position_ids)
        hidden = self.dropout(outputs["hidden_states"][-1])
        return {"logits": _per_token(self.classifier, hidden), **outputs}


class BertForQuestionAnswering(BertHead):
    """A BERT that finds a span: logits of its first and of its last token.

    ``num_labels`` of its config is 2, whatever was given.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> model = BertForQuestionAnswering(config, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((4, 7), jnp.int32))["start_logits"].shape
        (4, 7)
    """

    task = "question-answering"

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        super().__init__(dataclasses.replace(config, num_labels=2, labels=None), rngs=rngs)
        self.qa_outputs = dense(config.hidden_size, 2, config, rngs)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Shaped[Array, "batch length"] | None = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """As :class:`BertForSequenceClassification`, but ``start_logits`` and ``end_logits``.

        Both are ``[batch, length]`` and stand in place of ``logits``; positions of padding or of
        the question are not ruled out.
        """
        outputs = self.encode(input_ids, attention_mask, token_type_ids, position_ids)
        logits = _per_token(self.qa_outputs, outputs["hidden_states"][-1])
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1], **outputs}


def _dropout(config: BertConfig, rngs: nnx.Rngs) -> nnx.Dropout:
    rate = config.classifier_dropout
    return nnx.Dropout(config.hidden_dropout_prob if rate is None else rate, rngs=rngs)


def _mean_of_tokens(
    hidden: Float[Array, "batch length width"], mask: Shaped[Array, "batch length"] | None
) -> Float[Array, "batch width"]:
    if mask is None:
        return jnp.mean(hidden, axis=1)
    weights = (mask != 0).astype(hidden.dtype)
    counts = jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1)
    return jnp.einsum("bld,bl->bd", hidden, weights) / counts


def _per_token(
    head: nnx.Linear, hidden: Float[Array, "batch length width"]
) -> Float[Array, "batch length labels"]:
    return head(hidden.reshape(-1, hidden.shape[-1])).reshape(*hidden.shape[:2], -1)


TASKS: dict[str, type[BertHead]] = {
    head.task: head
    for head in (
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
    )
}
"""The models by the name of what they do."""

Head = TypeVar("Head", bound=BertHead)


def cut_layers(model: Head, layers: Sequence[int]) -> Head:
    """A student cut out of a teacher: some of its layers, and everything around them.

    Args:
        model: The teacher; it is left as it is, and shares no array with the student.
        layers: Which layers, in the order in which the student has them; negative ones count
            from the last.

    Returns:
        A model of ``len(layers)`` layers with copies of the embeddings, these layers, the pooler
        and the head.

    Raises:
        UsageError: A layer does not exist or is named twice, or there is none.

    Examples:
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=6,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> teacher = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        >>> student = cut_layers(teacher, layers=[0, 2, -1])
        >>> student.config.num_hidden_layers
        3
    """
    chosen = _layer_numbers(layers, model.config.num_hidden_layers)
    student = nnx.clone(model)
    stack = student.bert.encoder.layer
    student.bert.encoder.layer = nnx.List([stack[number] for number in chosen])
    student.config = dataclasses.replace(model.config, num_hidden_layers=len(chosen))
    nnx.update(student, jax.tree.map(jnp.copy, nnx.state(student)))
    return student


def _layer_numbers(layers: Sequence[int], count: int) -> list[int]:
    wrong = [layer for layer in layers if not isinstance(layer, int) or not -count <= layer < count]
    if wrong or not len(layers):
        raise UsageError(
            f"layers {list(layers)!r} must name layers of a model of {count}, "
            f"from {-count} to {count - 1}."
        )
    chosen = [layer % count for layer in layers]
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"layers {list(layers)!r} name a layer twice.")
    return chosen
