"""The data of a job on text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ._base import Config, is_int, is_number

POOLINGS = ("mean", "cls", "max", "lasttoken")
"""How the tokens of a text become one embedding: the mean over them, the first, the largest values,
or the last."""

NOT_LEARNED = frozenset(
    {"train", "unlabelled", "test", "validation", "threshold", "max_answer_length"}
)
"""Fields that change no training of the same texts: where the texts are, and how models are
scored."""


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """The task and the files with its texts; each task reads the columns that it needs.

    Args:
        task: The name of the task, a key of ``jaxbrewer.text.TASKS``.
        train: Labelled texts: JSONL, CSV, TSV, Parquet, or a saved ``datasets`` directory.
        unlabelled: More texts for distillation; their labels, if any, are not used.
        test: Labelled texts that score the result.
        validation: Labelled texts that score the model at each checkpoint; the best one is kept.
        text: Column of the text.
        text_pair: Column of the second text, if texts come in pairs.
        label: Column of the label: a class, several classes, or a number.
        labels: The names of all classes, or a text or JSON file that lists them; by default those
            of ``train``.
        label_map: The names of the classes by the labels in the files, such as
            ``{0: "NEGATIVE", 1: "POSITIVE"}``.
        class_weights: The weights of the classes in the loss on labels, ``"balanced"`` or a mapping
            from names; a class that is not named weighs 1. Weighted means are divided by the sum of
            the weights.
        label_smoothing: Probability that the targets of the loss on labels spread over all classes.
        probabilities: The teacher's probabilities of the classes, instead of a teacher: a column
            that holds a list or a mapping, or a mapping from each class to its column.
        log_probabilities: The same, as natural logarithms.
        max_length: Maximum number of tokens; longer texts are cut. Those of language models are
            cut into windows.
        prompt: Language models: column of a prompt, which is not learned ...
        completion: ... and of its completion.
        messages: Language models: column of a conversation.
        packed: Language models: whether a row of a batch holds several documents.
        truncate: Language models: whether only the first window of a document is used.
        learn_prompts: Language models: whether prompts, and messages of others than the
            assistant, are learned too.
        threshold: Multi-label: the probability from which a text has a class.
        tokens: Token classification: column of the words, or its number in CoNLL files.
        tags: Token classification: column of the words' classes, or its number in CoNLL files.
        pieces: Token classification: whether a student learns from the teacher at the ``"first"``
            piece of each word, or at ``"all"`` tokens.
        question: Questions: column of the question.
        context: Questions: column of the text that answers it.
        answers: Questions: column of the answers.
        stride: Questions: tokens that successive windows over a long text share.
        max_answer_length: Questions: maximum number of tokens of an answer.
        no_answer: Questions: whether a text may hold no answer.
        score: Embeddings: column of the score of a pair; null for pairs that all mean the same.
        score_range: Embeddings: the scores of the least and of the most similar pairs, which
            become the cosines 0 and 1.
        pooling: Embeddings: how the tokens of a model that has no pooling of its own become an
            embedding: ``"mean"``, ``"cls"``, ``"max"`` or ``"lasttoken"``.
        mask_probability: Masked language models: the share of tokens that is masked.
        static_masks: Masked language models: whether a text has the same masks in every epoch.
    """

    task: str = "classification"
    train: str | None = None
    unlabelled: str | None = None
    test: str | None = None
    validation: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    labels: Sequence[str] | str | None = None
    label_map: Mapping[Any, Any] | None = None
    class_weights: str | Mapping[str, float] | None = None
    label_smoothing: float = 0.0
    probabilities: str | Mapping[str, str] | None = None
    log_probabilities: str | Mapping[str, str] | None = None
    max_length: int = 128
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    packed: bool = True
    truncate: bool = False
    learn_prompts: bool = False
    threshold: float = 0.5
    tokens: str | int = "tokens"
    tags: str | int = "tags"
    pieces: str = "first"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    stride: int = 32
    max_answer_length: int = 30
    no_answer: bool = False
    score: str | None = "score"
    score_range: Sequence[float] = (0.0, 1.0)
    pooling: str = "mean"
    mask_probability: float = 0.15
    static_masks: bool = False

    def __post_init__(self) -> None:
        """Checks each field."""
        for field in ("train", "unlabelled", "test", "validation", "text_pair"):
            value = getattr(self, field)
            self.require(field, value is None or isinstance(value, str), "a name or null")
        for field in ("packed", "truncate", "learn_prompts"):
            self.require(field, isinstance(getattr(self, field), bool), "true or false")
        for field in ("task", "text", "label", "prompt", "completion", "messages"):
            self.require(field, isinstance(getattr(self, field), str), "a name")
        for field in ("question", "context", "answers"):
            self.require(field, isinstance(getattr(self, field), str), "a name")
        for field in ("tokens", "tags"):
            value = getattr(self, field)
            self.require(field, isinstance(value, str) or is_int(value), "a name or a number")
        if self.labels is not None and not isinstance(self.labels, str):
            self._check_labels()
        if self.label_map is not None:
            self._check_label_map()
        self.require_number("max_length", minimum=4, whole=True)
        self._check_class_weights()
        self._check_probabilities()
        self.require_number("label_smoothing", minimum=0, maximum=1)
        self.require("label_smoothing", self.label_smoothing < 1, "below 1")
        self.require_number("threshold", minimum=0, maximum=1)
        self.require_choice("pieces", ("first", "all"))
        self.require_number("stride", minimum=0, whole=True)
        self.require_number("max_answer_length", minimum=1, whole=True)
        self.require_flag("no_answer")
        self.require("score", self.score is None or isinstance(self.score, str), "a name or null")
        self._check_score_range()
        self.require_choice("pooling", POOLINGS)
        self.require_number("mask_probability", minimum=0, maximum=1)
        self.require_flag("static_masks")

    def _check_score_range(self) -> None:
        is_pair = isinstance(self.score_range, (list, tuple)) and len(self.score_range) == 2
        numbers = is_pair and all(map(is_number, self.score_range))
        holds = numbers and self.score_range[0] < self.score_range[1]
        self.require("score_range", holds, "two numbers, the smaller one first")
        object.__setattr__(self, "score_range", tuple(map(float, self.score_range)))

    def _check_labels(self) -> None:
        is_list = isinstance(self.labels, (list, tuple))
        holds = is_list and not any(isinstance(name, bool) for name in self.labels or ())
        self.require("labels", holds, "a list of names (yes and no need quotes in YAML), or a file")
        holds = all(isinstance(name, (str, int)) for name in self.labels or ())
        self.require("labels", holds, "a list of names or integers")
        names = tuple(map(str, self.labels or ()))
        object.__setattr__(self, "labels", names)
        self.require("labels", len(set(names)) == len(names) > 1, "at least two different names")

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if isinstance(weights, Mapping):
            holds = all(is_number(weight) and weight > 0 for weight in weights.values())
            self.require("class_weights", holds and bool(weights), "positive numbers by class")
            names = {str(name): weight for name, weight in weights.items()}
            object.__setattr__(self, "class_weights", names)
        elif weights is not None:
            self.require("class_weights", weights == "balanced", "'balanced' or a mapping")

    def _check_probabilities(self) -> None:
        for field in ("probabilities", "log_probabilities"):
            value = getattr(self, field)
            if isinstance(value, Mapping):
                holds = all(isinstance(column, str) for column in value.values())
                self.require(field, holds and len(value) > 1, "a column for each class")
                names = {str(name): column for name, column in value.items()}
                object.__setattr__(self, field, names)
            else:
                is_name = value is None or isinstance(value, str)
                self.require(field, is_name, "a column, or a mapping from classes to columns")
        if self.probabilities is not None and self.log_probabilities is not None:
            raise UsageError("DataConfig takes one of probabilities and log_probabilities.")

    def _check_label_map(self) -> None:
        is_map = isinstance(self.label_map, Mapping) and bool(self.label_map)
        self.require("label_map", is_map, "a mapping from labels to names")
        pairs = dict(self.label_map or {})
        holds = all(
            isinstance(name, str) or is_int(name) for pair in pairs.items() for name in pair
        )
        self.require(
            "label_map", holds, "a mapping from labels to names (quote yes and no in YAML)"
        )
        names = {str(label): str(name) for label, name in pairs.items()}
        self.require("label_map", len(names) == len(pairs), "a mapping with each label once")
        object.__setattr__(self, "label_map", names)
