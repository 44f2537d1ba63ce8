"""The sizes and settings of a BERT, under the names of a Hugging Face ``config.json``."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from ..errors import UsageError, suggest

ACTIVATION_NAMES = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
_ONLY = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}  # what a file may say, and what this encoder does


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and settings of a BERT; the defaults are those of BERT-base.

    Attributes:
        vocab_size: Rows of the word embeddings.
        hidden_size: Width of the hidden states, a multiple of ``num_attention_heads``.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Heads of each layer.
        intermediate_size: Width between the two dense maps of a layer.
        hidden_act: Activation there, one of ``ACTIVATION_NAMES``.
        hidden_dropout_prob: Dropout of embeddings and of what each block adds.
        attention_probs_dropout_prob: Dropout of attention probabilities.
        classifier_dropout: Dropout before the head; ``None`` means ``hidden_dropout_prob``.
        max_position_embeddings: The longest input.
        type_vocab_size: Rows of the token-type embeddings.
        initializer_range: Standard deviation of new weights.
        layer_norm_eps: Added to the variance in layer norms.
        classifier_pooling: What a sequence classifier looks at: ``"cls"``, the pooler's view of the
            first token, as ``transformers`` has it; or ``"mean"``, the mean over the tokens, which
            suits encoders of sentences (MiniLM) and which ``transformers`` does not have.
        pad_token_id: The id that fills up short inputs; kept for the tokeniser's sake.
        num_labels: Outputs of a classification head.
        labels: Their names, in order; ``None`` for ``LABEL_0, LABEL_1, ...``.

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

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_pooling: str = "cls"
    pad_token_id: int | None = 0
    num_labels: int = 2
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                smallest = 0 if field.name == "num_hidden_layers" else 1
                if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                    self._refuse(field.name, f"must be an integer of at least {smallest}")
            elif field.type is float and (
                isinstance(value, bool) or not isinstance(value, int | float) or value < 0
            ):
                self._refuse(field.name, "must be a number of at least 0")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            rate = getattr(self, name)
            if rate is not None and not (isinstance(rate, int | float) and 0 <= rate < 1):
                self._refuse(name, "must be a number from 0 up to, but not, 1")
        if self.hidden_act not in ACTIVATION_NAMES:
            hint = suggest(self.hidden_act, ACTIVATION_NAMES)
            raise UsageError(f"BertConfig hidden_act {self.hidden_act!r} is not known: {hint}")
        if self.classifier_pooling not in ("cls", "mean"):
            self._refuse("classifier_pooling", "must be 'cls' or 'mean'")
        if self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"BertConfig hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}."
            )
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
            if len(set(self.labels)) != len(self.labels):
                self._refuse("labels", "must all be different")
            if len(self.labels) != self.num_labels:
                raise UsageError(
                    f"BertConfig labels names {len(self.labels)} classes, num_labels is "
                    f"{self.num_labels}."
                )

    def _refuse(self, name: str, rule: str) -> None:
        raise UsageError(f"BertConfig {name} {rule}, got {getattr(self, name)!r}.")

    @property
    def id2label(self) -> dict[int, str]:
        """The names of the classes by their number."""
        names = self.labels or [f"LABEL_{index}" for index in range(self.num_labels)]
        return dict(enumerate(names))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The config that a ``config.json`` describes; keys that BERT has no use for are left out.

        Raises:
            UsageError: The file asks for something this encoder does not do (another
                ``model_type``, relative positions, a decoder, pruned heads), or a value is wrong.

        Examples:
            >>> BertConfig.from_dict({"hidden_size": 384, "use_cache": True}).hidden_size
            384
            >>> BertConfig.from_dict({"position_embedding_type": "relative_key"})
            Traceback (most recent call last):
            jaxbrewer.errors.UsageError: config position_embedding_type 'relative_key' is not
            supported, only 'absolute'.
        """
        for key, only in _ONLY.items():
            if fields.get(key, only) != only:
                raise UsageError(f"config {key} {fields[key]!r} is not supported, only {only!r}.")
        if fields.get("pruned_heads"):
            raise UsageError("config pruned_heads is not supported: load the unpruned model.")
        known = {field.name for field in dataclasses.fields(cls)} - {"labels"}
        own = {key: value for key, value in fields.items() if key in known}
        if fields.get("id2label"):
            own |= _labels(fields["id2label"])
        return cls(**own)

    def to_dict(self) -> dict[str, Any]:
        """The entries of a ``config.json``, ``model_type`` and label names included.

        Examples:
            >>> config = BertConfig(num_labels=3)
            >>> BertConfig.from_dict(config.to_dict()) == config
            True
        """
        own = dataclasses.asdict(self)
        del own["labels"], own["num_labels"]
        if self.classifier_pooling == "cls":  # what everyone takes for granted
            del own["classifier_pooling"]
        return (
            own
            | _ONLY
            | {
                "id2label": {str(index): name for index, name in self.id2label.items()},
                "label2id": {name: index for index, name in self.id2label.items()},
            }
        )


def _labels(id2label: Mapping[Any, Any]) -> dict[str, Any]:
    """``num_labels``, and ``labels`` unless they are only numbered."""
    try:
        by_number = {int(index): str(name) for index, name in id2label.items()}
        names = tuple(by_number[index] for index in range(len(by_number)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"config id2label must number its labels from 0, got {id2label!r}."
        ) from error
    numbered = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return {"num_labels": len(names), "labels": None if numbered else names}
