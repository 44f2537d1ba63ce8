"""Classification of the words of sentences, such as named entities and parts of speech."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ...errors import log_warning
from ..labels import UNLABELLED
from ..rows import Source
from ..tagged import TaggedTexts, read_tagged
from ..tokenize import Encoded, Tokenizer
from .classes import ClassesTask, Counts, renumbered
from .classification import log_softmax, shared_outputs
from .measure import Measure, Statistics, means
from .task import Arrays, Head, Predictions

OUTSIDE = "O"
"""The class of words that belong to no span."""

Span = tuple[str, int, int]
"""Its type, its first word, and the word after its last."""


class TokenClassification(ClassesTask[TaggedTexts]):
    """A class for each word of a sentence."""

    name = "token-classification"
    head = "token-classification"
    metrics = ("f1", "precision", "recall", "accuracy", "loss")
    main_metric = "f1"

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> TaggedTexts:
        """Reads ``data.tokens`` and ``data.tags``, or the columns of a CoNLL file."""
        data = self.data
        with self.unknown_labels(origin):
            return read_tagged(
                path,
                tokens=data.tokens,
                tags=data.tags,
                labels=names or self.label_names,
                label_map=data.label_map,
            )

    def read_unlabelled(self, path: Source) -> TaggedTexts:
        """Reads ``data.tokens``, or the words of ``data.text`` between spaces."""
        return read_tagged(path, tokens=self.data.tokens, tags=None, text=self.data.text)

    def encode(self, tokenizer: Tokenizer, examples: TaggedTexts) -> Encoded:
        """Tokenizes the words; ``labels`` are those of their first pieces.

        ``first_piece`` is 1 there, else 0. The number of words without a piece, because
        ``data.max_length`` cuts them off, is logged.
        """
        encoded = tokenizer.encode_words(examples.sentences, max_length=self.data.max_length)
        word = encoded.token_facts["word"]
        is_first = word >= 0
        total = sum(map(len, examples.sentences))
        if total > is_first.sum():
            log_warning(
                f"{total - is_first.sum():,} of {total:,} words have no token: data.max_length "
                f"{self.data.max_length} cuts them off"
            )
        columns = {"first_piece": is_first.astype(np.int32)}
        if examples.tags is not None:
            starts = np.cumsum([0, *map(len, examples.sentences)])[:-1]
            place = np.repeat(starts, encoded.lengths) + word
            tags = np.concatenate(examples.tags)
            labels = np.where(is_first, tags[np.where(is_first, place, 0)], UNLABELLED)
            columns["labels"] = labels.astype(np.int32)
        return dataclasses.replace(encoded, token_columns=columns)

    def with_head(self, examples: TaggedTexts, head: Head) -> TaggedTexts:
        """Numbers the classes of the words as in ``head.names``."""
        tags = examples.tags
        if tags is not None:
            tags = [renumbered(each, examples.label_names, head.names) for each in tags]
        return dataclasses.replace(examples, tags=tags, label_names=head.names)

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Logits, their mask by ``data.pieces``, labels and their cross-entropy."""
        logits = outputs["logits"]
        answer = {"logits": logits, **shared_outputs(batch, outputs)}
        if self.data.pieces == "first":
            answer["logits_mask"] = batch["first_piece"] == 1
        if "labels" in batch:
            loss = self.label_loss(logits, batch["labels"])
            answer |= {"labels": batch["labels"], "losses": loss}
        return answer

    def class_numbers(self, examples: TaggedTexts) -> Int[np.ndarray, " words"]:
        """The classes of all words."""
        return np.concatenate([np.zeros(0, np.int32), *(examples.tags or ())])

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The logits of each token."""
        return {}, {"logits": outputs["logits"]}

    def measure(self, examples: TaggedTexts, encoded: Encoded, predictions: Predictions) -> Measure:
        """F1, precision and recall of spans; accuracy of words; mean cross-entropy in nats.

        Spans are those of seqeval; see :func:`spans_of`. If the classes are no tags of spans, each
        word is a span. A word that is cut off is outside of all spans, or wrong if there is no
        class ``O``. The cross-entropy is that of the words with tokens.
        """
        counts = _span_counts(examples, encoded, predictions)
        logits, labels = predictions.tokens["logits"], encoded.token_columns["labels"]
        known = labels >= 0
        chosen = np.take_along_axis(log_softmax(logits), np.maximum(labels, 0)[:, None], axis=-1)
        sentence = np.repeat(np.arange(len(encoded)), encoded.lengths)
        sums = {
            name: np.bincount(sentence, values, minlength=len(encoded))
            for name, values in (("nats", np.where(known, -chosen[:, 0], 0)), ("known", known))
        }

        return Measure({**counts, **sums}, _metrics)

    def details(
        self, examples: TaggedTexts, encoded: Encoded, predictions: Predictions
    ) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each type of span."""
        found: dict[str, list[int]] = {}
        for true, predicted in _spans(examples, encoded, predictions):
            for column, spans in enumerate((true & predicted, predicted, true)):
                for kind, _, _ in spans:
                    found.setdefault(kind, [0, 0, 0])[column] += 1
        kinds = sorted(found)
        columns = np.array([found[kind] for kind in kinds], int).reshape(-1, 3).T
        return Counts(*columns).by_class(kinds)

    def agreement(
        self,
        examples: TaggedTexts,
        encoded: Encoded,
        student: Predictions,
        teacher: Predictions,
    ) -> Measure:
        """The share of words with equal classes, and the KL divergence there in nats."""
        is_first = encoded.token_columns["first_piece"] == 1
        z_S, z_T = (each.tokens["logits"][is_first] for each in (student, teacher))
        log_q, log_p = log_softmax(z_S), log_softmax(z_T)
        return means(
            top1_agreement=(z_S.argmax(-1) == z_T.argmax(-1)).astype(np.float64),
            kl_divergence=np.sum(np.exp(log_p) * (log_p - log_q), axis=-1),
        )

    def decode(
        self,
        examples: TaggedTexts,
        encoded: Encoded,
        predictions: Predictions,
        names: Sequence[str],
    ) -> Iterator[dict[str, Any]]:
        """The words, their tags, and the spans that these form; a word that is cut off has none."""
        are_spans = form_spans(names)
        for words, tags in zip(
            examples.sentences, _predicted(examples, encoded, predictions, names), strict=True
        ):
            row: dict[str, Any] = {"tokens": words, "tags": tags}
            if are_spans:
                row["spans"] = [
                    {"type": kind, "start": start, "end": end, "text": " ".join(words[start:end])}
                    for kind, start, end in sorted(
                        spans_of([tag or OUTSIDE for tag in tags]), key=lambda span: span[1:]
                    )
                ]
            yield row


def form_spans(names: Sequence[str]) -> bool:
    """Whether all classes are tags of spans: ``O``, or ``B``, ``I``, ``E`` or ``S`` with a type.

    Examples:
        >>> form_spans(["O", "B-PER", "I-PER"]), form_spans(["NOUN", "VERB"])
        (True, False)
    """
    return all(name == OUTSIDE or re.fullmatch("[BIES](-.*)?", name) for name in names)


def spans_of(tags: Sequence[str]) -> set[Span]:
    """The spans of a sentence, as seqeval finds them in its default mode.

    A tag continues a span if it is ``I`` or ``E``, follows ``B`` or ``I``, and has the same type.
    Any other tag but ``O`` begins one, so that the schemes IOB1, IOB2 and BIOES are read.

    Args:
        tags: Tags such as ``B-PER``; a tag without a type has the type ``_``.

    References:
        Nakayama, seqeval, https://github.com/chakki-works/seqeval

    Examples:
        >>> sorted(spans_of(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
        [('LOC', 3, 4), ('LOC', 4, 5), ('PER', 0, 2)]
    """
    spans: set[Span] = set()
    start, before, kind_before = 0, OUTSIDE, ""
    for number, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, rest = tag.partition("-")
        kind = rest or "_"
        continues = prefix in ("I", "E") and before in ("B", "I") and kind == kind_before
        if before != OUTSIDE and not continues:
            spans.add((kind_before, start, number))
        if not continues:
            start = number
        before, kind_before = prefix, kind
    return spans


def _words_as_spans(tags: Sequence[str]) -> set[Span]:
    return {(tag, number, number + 1) for number, tag in enumerate(tags) if tag != OUTSIDE}


def _predicted(
    examples: TaggedTexts, encoded: Encoded, predictions: Predictions, names: Sequence[str]
) -> Iterator[list[str | None]]:
    """The predicted class of each word; ``None`` for a word without a token."""
    words, best = encoded.token_facts["word"], predictions.tokens["logits"].argmax(-1)
    for number, sentence in enumerate(examples.sentences):
        tokens = slice(encoded.offsets[number], encoded.offsets[number + 1])
        tags: list[str | None] = [None] * len(sentence)
        for word, tag in zip(words[tokens], best[tokens], strict=True):
            if word >= 0:
                tags[word] = names[tag]
        yield tags


def _spans(
    examples: TaggedTexts, encoded: Encoded, predictions: Predictions
) -> Iterator[tuple[set[Span], set[Span]]]:
    """The true and the predicted spans of each sentence with tags; of others there are none."""
    names = examples.label_names
    find = spans_of if form_spans(names) else _words_as_spans
    assert examples.tags is not None
    predicted = _predicted(examples, encoded, predictions, names)
    for true, tags in zip(examples.tags, predicted, strict=True):
        if len(true) and true[0] < 0:
            yield set(), set()
        else:
            yield find([names[tag] for tag in true]), find([tag or OUTSIDE for tag in tags])


def _span_counts(
    examples: TaggedTexts, encoded: Encoded, predictions: Predictions
) -> dict[str, Int[np.ndarray, " sentences"]]:
    """Numbers of spans and of words for each sentence."""
    spans = [
        (len(true & predicted), len(predicted), len(true))
        for true, predicted in _spans(examples, encoded, predictions)
    ]
    names = examples.label_names
    words = []
    assert examples.tags is not None
    for true, tags in zip(
        examples.tags, _predicted(examples, encoded, predictions, names), strict=True
    ):
        right = [
            number >= 0 and names[number] == (tag or OUTSIDE)
            for number, tag in zip(true, tags, strict=True)
        ]
        words.append((sum(right), int((true >= 0).sum())))
    correct, predicted, true_spans = np.array(spans, int).reshape(-1, 3).T
    hits, total = np.array(words, int).reshape(-1, 2).T
    return {
        "correct": correct,
        "predicted": predicted,
        "true": true_spans,
        "hits": hits,
        "words": total,
    }


def _metrics(of: Statistics) -> Mapping[str, Any]:
    sums = {name: values.sum() for name, values in of.items()}
    counts = Counts(*(np.array([sums[name]]) for name in ("correct", "predicted", "true")))
    return {
        "f1": counts.micro_f1,
        "precision": counts.precision[0],
        "recall": counts.recall[0],
        "accuracy": sums["hits"] / max(sums["words"], 1),
        "loss": sums["nats"] / max(sums["known"], 1),
    }
