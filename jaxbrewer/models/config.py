"""The fields that the configs of all families share, with Hugging Face's names."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Self

from ..errors import UsageError, suggest
from .model_types import PROBLEM_TYPES
from .pooling import Pooling

ACTIVATION_NAMES = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
_RATES = ("dropout", "dropout_prob", "pdrop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes and settings that every family has; a family adds its own fields.

    Attributes:
        model_type: The family, as in ``config.json``.
        vocab_size: Rows of the word embeddings.
        hidden_size: Width of the hidden states.
        num_hidden_layers: Number of layers.
        num_attention_heads: Heads of each layer.
        intermediate_size: Width between the two dense maps of a layer.
        hidden_act: Activation there, one of ``ACTIVATION_NAMES``.
        max_position_embeddings: The longest input that the model was made for.
        initializer_range: Standard deviation of new weights.
        pad_token_id: The id that pads short inputs.
        tie_word_embeddings: Whether the output map of a language model is the table of word
            embeddings.

    Raises:
        UsageError: A value has the wrong type, is out of range, or does not fit another.
    """

    model_type: str = ""
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    SUPPORTED: ClassVar[Mapping[str, Any]] = {}
    """Keys of a file that change the model's meaning, with the one supported value of each; they
    are also written."""
    CHECKED: ClassVar[Mapping[str, Any]] = {}
    """The same for keys that are not written."""
    FILE_KEYS: ClassVar[Mapping[str, str]] = {}
    """Keys of ``config.json`` that differ from our field names, by field name."""
    NOT_IN_FILES: ClassVar[frozenset[str]] = frozenset()
    """Fields that are neither read from ``config.json`` nor written there."""
    ZERO_ALLOWED: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})
    """Integer fields that may be 0."""
    LARGEST: ClassVar[Mapping[str, int]] = {"num_hidden_layers": 1000}
    """The largest values of integer fields; ``2**24`` for all others."""
    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()
    """The values of ``model_type`` that this config describes; the first is the default."""

    def __post_init__(self) -> None:
        if not self.model_type and self.MODEL_TYPES:
            object.__setattr__(self, "model_type", self.MODEL_TYPES[0])
        for field in dataclasses.fields(self):
            self._check_type(field)
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACTIVATION_NAMES:
            name, hint = type(self).__name__, suggest(self.hidden_act, ACTIVATION_NAMES)
            raise UsageError(f"{name} hidden_act {self.hidden_act!r} is unknown: {hint}")

    def _check_type(self, field: dataclasses.Field[Any]) -> None:
        name, value = field.name, getattr(self, field.name)
        if field.type is int:
            smallest, largest = int(name not in self.ZERO_ALLOWED), self.LARGEST.get(name, 2**24)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                self.refuse(name, f"must be an integer of at least {smallest}")
            if value > largest:
                self.refuse(name, f"must be at most {largest:,}")
        elif name.endswith(_RATES):
            is_default = value is None and field.type == float | None
            if not is_default and not (_is_number(value) and value < 1):
                self.refuse(name, "must be a number of at least 0 and below 1")
        elif field.type is float and not _is_number(value):
            self.refuse(name, "must be a number of at least 0")
        elif field.type is bool and not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        elif field.type == int | None and value is not None and not isinstance(value, int):
            self.refuse(name, "must be an integer or null")
        elif field.type == float | None and value is not None and not _is_number(value):
            self.refuse(name, "must be a number of at least 0, or null")

    def refuse(self, name: str, rule: str) -> NoReturn:
        """Raises :class:`UsageError` for a field."""
        raise UsageError(f"{type(self).__name__} {name} {rule}, got {getattr(self, name)!r}.")

    @property
    def longest_input(self) -> int | None:
        """The largest number of tokens of an input; ``None`` if the weights set no limit."""
        return self.max_position_embeddings

    def fields_of_layers(self, layers: Sequence[int]) -> dict[str, Any]:
        """Fields that change when a model keeps only these of its layers."""
        return {}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Reads the config from the content of ``config.json``; unknown keys are skipped.

        Raises:
            UsageError: The file needs something that is not supported (another
                ``model_type``, relative positions, a decoder, pruned heads), or a value is wrong.

        Examples:
            >>> from jaxbrewer.models import BertConfig
            >>> BertConfig.from_dict({"hidden_size": 384, "use_cache": True}).hidden_size
            384
            >>> BertConfig.from_dict({"position_embedding_type": "relative_key"})
            Traceback (most recent call last):
            jaxbrewer.errors.UsageError: config position_embedding_type 'relative_key' is not
            supported, only 'absolute'.
        """
        if fields.get("model_type", cls.MODEL_TYPES[0]) not in cls.MODEL_TYPES:
            raise UsageError(
                f"config model_type {fields['model_type']!r} is not supported, only "
                f"{' or '.join(map(repr, cls.MODEL_TYPES))}."
            )
        for key, only in {**cls.SUPPORTED, **cls.CHECKED}.items():
            if fields.get(key, only) != only:
                raise UsageError(f"config {key} {fields[key]!r} is not supported, only {only!r}.")
        if fields.get("pruned_heads"):
            raise UsageError("config pruned_heads is not supported: load the unpruned model.")
        if fields.get("quantization_config"):
            raise UsageError("config quantization_config is not supported: load the full weights.")
        return cls(**cls._own_fields(fields))

    @classmethod
    def _own_fields(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments in the content of a ``config.json``."""
        names = {field.name for field in dataclasses.fields(cls)} - cls.NOT_IN_FILES
        keys = {name: cls.FILE_KEYS.get(name, name) for name in names}
        return {name: fields[key] for name, key in keys.items() if key in fields}

    def to_dict(self) -> dict[str, Any]:
        """The entries of a ``config.json``, including ``model_type``.

        Examples:
            >>> from jaxbrewer.models import BertConfig
            >>> config = BertConfig(num_labels=3)
            >>> BertConfig.from_dict(config.to_dict()) == config
            True
        """
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in self.NOT_IN_FILES
        }
        return {
            **{self.FILE_KEYS.get(name, name): value for name, value in own.items()},
            **self.SUPPORTED,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """What every family of encoders has beside the fields of :class:`TransformerConfig`.

    Attributes:
        num_labels: Outputs of a classification head.
        labels: Their names, in order; ``None`` for ``LABEL_0, LABEL_1, ...``.
        pooling: How the tokens of an encoder without a head become an embedding, a
            :class:`~jaxbrewer.models.pooling.Pooling` or its fields; ``None`` for no embedding.
        problem_type: What the logits of a sequence classifier are, one of
            :data:`~jaxbrewer.models.model_types.PROBLEM_TYPES`: logits of a softmax, one logit of
            a sigmoid for each label, or numbers. ``None`` if the file does not say.

    Raises:
        UsageError: A value has the wrong type, is out of range, or does not fit another.
    """

    num_labels: int = 2
    labels: tuple[str, ...] | None = None
    pooling: Pooling | None = None
    problem_type: str | None = None

    NOT_IN_FILES: ClassVar[frozenset[str]] = frozenset({"num_labels", "labels", "pooling"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling is not None:
            object.__setattr__(self, "pooling", Pooling.of(self.pooling))
        if self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"{type(self).__name__} hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}."
            )
        if self.problem_type not in (None, *PROBLEM_TYPES):
            name, hint = type(self).__name__, suggest(self.problem_type, PROBLEM_TYPES)
            raise UsageError(f"{name} problem_type {self.problem_type!r} is unknown: {hint}")
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
            if len(set(self.labels)) != len(self.labels):
                self.refuse("labels", "must all be different")
            if len(self.labels) != self.num_labels:
                raise UsageError(
                    f"{type(self).__name__} labels names {len(self.labels)} classes, num_labels "
                    f"is {self.num_labels}."
                )

    @property
    def longest_input(self) -> int:
        """The largest number of tokens of an input."""
        return self.max_position_embeddings

    @property
    def embedding_width(self) -> int:
        """The width of the word embeddings."""
        return self.hidden_size

    @property
    def lm_activation(self) -> str:
        """The activation in the head of a masked language model."""
        return self.hidden_act

    def head_dropout(self, task: str) -> float:
        """The dropout rate before the head of a task."""
        fields: Any = self
        rate: float | None = getattr(self, "classifier_dropout", None)
        return fields.hidden_dropout_prob if rate is None else rate

    @property
    def id2label(self) -> dict[int, str]:
        """The names of the classes by their number."""
        names = self.labels or [f"LABEL_{index}" for index in range(self.num_labels)]
        return dict(enumerate(names))

    @classmethod
    def _own_fields(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        own = super()._own_fields(fields)
        if "num_labels" in fields:
            own["num_labels"] = fields["num_labels"]
        return own | (_labels(fields["id2label"]) if fields.get("id2label") else {})

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`TransformerConfig.to_dict`, with the names of the labels."""
        own = super().to_dict()
        if self.problem_type is None:
            del own["problem_type"]
        return {
            **own,
            "id2label": {str(index): name for index, name in self.id2label.items()},
            "label2id": {name: index for index, name in self.id2label.items()},
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30


def _labels(id2label: Mapping[Any, Any]) -> dict[str, Any]:
    """``num_labels``, and ``labels`` unless they have the default names."""
    try:
        by_number = {int(index): str(name) for index, name in id2label.items()}
        names = tuple(by_number[index] for index in range(len(by_number)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"config id2label must number its labels from 0, got {id2label!r}."
        ) from error
    numbered = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return {"num_labels": len(names), "labels": None if numbered else names}
