"""Extractive question answering: the part of a text that answers a question."""

import collections
import dataclasses
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ...models.model_directory import ModelDirectory
from ..labels import UNLABELLED
from ..questions import Answer, Questions, read_questions
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from ..tokenizer_files import Truncation
from .classification import shared_outputs
from .measure import Measure, means
from .task import Arrays, Head, Predictions, Task

N_BEST = 5
"""Number of answers that a prediction lists."""


class QuestionAnswering(Task[Questions]):
    """The part of a text that answers a question."""

    name = "question-answering"
    head = "question-answering"
    metrics = ("f1", "exact_match")
    main_metric = "f1"
    label_columns = ("start_positions", "end_positions")

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Questions:
        """Reads SQuAD's JSON, or ``data.question``, ``data.context`` and ``data.answers``."""
        data = self.data
        return read_questions(
            path,
            question=data.question,
            context=data.context,
            answers=data.answers,
            no_answer=data.no_answer,
        )

    def read_unlabelled(self, path: Source) -> Questions:
        """Reads the questions and their texts."""
        data = self.data
        return read_questions(path, question=data.question, context=data.context, answers=None)

    def encode(self, tokenizer: Tokenizer, examples: Questions) -> Encoded:
        """Tokenizes the questions, each with windows of its text.

        A row is a window. ``can_answer`` is 1 at the tokens of the text and at the first token of
        the row, which means that the window holds no answer. ``start_positions`` and
        ``end_positions`` are the places of the first answer in the row, or 0.
        """
        encoded = tokenizer.encode_windows(
            examples.questions,
            examples.contexts,
            max_length=self.data.max_length,
            stride=self.data.stride,
        )
        starts = encoded.offsets[:-1]
        can_answer = (encoded.token_facts["place"][:, 0] >= 0).astype(np.int32)
        can_answer[starts] = 1
        encoded = dataclasses.replace(encoded, token_columns={"can_answer": can_answer})
        if all(answers is None for answers in examples.answers):
            return encoded
        positions = np.full((len(encoded), 2), UNLABELLED, np.int32)
        for row, number in enumerate(encoded.facts["example"]):
            answers = examples.answers[number]
            if answers is not None:
                tokens = slice(encoded.offsets[row], encoded.offsets[row + 1])
                place = encoded.token_facts["place"][tokens]
                positions[row] = _positions(place, answers[0]) if answers else (0, 0)
        columns = dict(zip(self.label_columns, positions.T.copy(), strict=True))
        return dataclasses.replace(encoded, columns=columns)

    @property
    def truncation(self) -> Truncation:
        """Windows of the text, which is the second of a pair."""
        return Truncation(self.data.max_length, "only_second", self.data.stride)

    def describe(self, examples: Questions) -> list[tuple[str, str]]:
        """The number of texts, and of questions without an answer."""
        without = sum(answers == () for answers in examples.answers)
        about = f"{len(examples):,} about {len(set(examples.contexts)):,} texts"
        return [("questions", about + (f", {without:,} without an answer" if without else ""))]

    def head_to_train(self, source: ModelDirectory, examples: Questions) -> Head:
        """The model's own head, or a new one."""
        return Head(is_new=not source.has_head(self.head))

    def head_to_use(self, source: ModelDirectory, examples: Questions) -> Head:
        """The model's own head."""
        self.require_head(source)
        return Head()

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Two heads, whose classes are the positions that may begin or end an answer."""
        import jax.numpy as jnp

        from ...losses import Mean

        can_answer = batch["can_answer"] == 1
        heads = outputs["start_logits"], outputs["end_logits"]
        answer = {
            "logits": heads,
            "logits_mask": can_answer,
            **shared_outputs(batch, outputs),
        }
        if "start_positions" in batch:
            labels = batch["start_positions"], batch["end_positions"]
            start, end = (
                self.label_loss(jnp.where(can_answer, logits.astype(jnp.float32), -jnp.inf), label)
                for logits, label in zip(heads, labels, strict=True)
            )
            loss = Mean((start.total + end.total) / 2, start.count)
            answer |= {"labels": labels, "losses": loss}
        return answer

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The logits of first and last tokens."""
        return {}, {"start": outputs["start_logits"], "end": outputs["end_logits"]}

    def measure(self, examples: Questions, encoded: Encoded, predictions: Predictions) -> Measure:
        """F1 and exact match of the best answers, as SQuAD's script counts them, from 0 to 1."""
        scores = [score for score in self._scores(examples, encoded, predictions) if score]
        exact, f1 = np.array(scores, float).reshape(-1, 2).T
        return means(f1=f1, exact_match=exact)

    def details(
        self, examples: Questions, encoded: Encoded, predictions: Predictions
    ) -> dict[str, dict[str, float]]:
        """The same for questions with and without an answer, where some have none."""
        found: dict[str, list[tuple[float, float]]] = {}
        for answers, score in zip(
            examples.answers, self._scores(examples, encoded, predictions), strict=True
        ):
            if score:
                kind = "with an answer" if answers else "without an answer"
                found.setdefault(kind, []).append(score)
        if len(found) < 2:
            return {}
        return {
            kind: {
                "f1": float(np.mean([f1 for _, f1 in scores])),
                "exact_match": float(np.mean([exact for exact, _ in scores])),
                "count": float(len(scores)),
            }
            for kind, scores in sorted(found.items())
        }

    def agreement(
        self, examples: Questions, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """The share of questions with the same best answer."""
        both = (
            [found[0][:2] for found in self._best(examples, encoded, predictions)]
            for predictions in (student, teacher)
        )
        equal = [one == other for one, other in zip(*both, strict=True)]
        return means(answer_agreement=np.array(equal, float))

    def decode(
        self, examples: Questions, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The best answer, its characters in the text, its probability, and the next best ones.

        Probabilities are relative to those of the answers that are listed.
        """
        best = self._best(examples, encoded, predictions)
        for number, found in enumerate(best):
            context = examples.contexts[number]
            weights = np.exp([one.score - found[0].score for one in found])
            rows = [
                {
                    "answer": context[one.start : one.end],
                    "start": one.start if one.end else None,
                    "end": one.end or None,
                    "probability": float(weight / weights.sum()),
                }
                for one, weight in zip(found, weights, strict=True)
            ]
            name = {"id": examples.ids[number]} if examples.ids[number] else {}
            yield {**name, **rows[0], "n_best": rows}

    def _scores(
        self, examples: Questions, encoded: Encoded, predictions: Predictions
    ) -> Iterator[tuple[float, float] | None]:
        """Exact match and F1 of each question; ``None`` where the answers are not known."""
        best = self._best(examples, encoded, predictions)
        for number, found in enumerate(best):
            answers = examples.answers[number]
            if answers is None:
                yield None
                continue
            predicted = examples.contexts[number][found[0].start : found[0].end]
            texts = [answer.text for answer in answers]
            yield squad_scores(predicted, texts, no_answer=self.data.no_answer)

    def _best(
        self, examples: Questions, encoded: Encoded, predictions: Predictions
    ) -> Iterator[list["Candidate"]]:
        rows: list[list[int]] = [[] for _ in range(len(examples))]
        for row, number in enumerate(encoded.facts["example"]):
            rows[number].append(row)
        for own in rows:
            windows = []
            for row in own:
                tokens = slice(encoded.offsets[row], encoded.offsets[row + 1])
                windows.append(
                    Window(
                        encoded.token_facts["place"][tokens],
                        predictions.tokens["start"][tokens],
                        predictions.tokens["end"][tokens],
                    )
                )
            yield best_answers(windows, self.data.max_answer_length, no_answer=self.data.no_answer)


class Window(NamedTuple):
    """A window of a text, and what a model says about its tokens.

    Attributes:
        places: First character of each token in the text, and the one after its last; -1 for
            tokens that are not of the text. The first token stands for no answer.
        start: Logits of an answer's first token.
        end: Logits of its last token.
    """

    places: Int[np.ndarray, "tokens 2"]
    start: Float[np.ndarray, " tokens"]
    end: Float[np.ndarray, " tokens"]


class Candidate(NamedTuple):
    """A possible answer: its characters in the text, both 0 for no answer, and its score."""

    start: int
    end: int
    score: float


def best_answers(
    windows: Sequence[Window], max_answer_length: int, *, no_answer: bool, count: int = N_BEST
) -> list[Candidate]:
    """The spans with the largest sums of logits, over all windows of a text, best first.

    A span that stands in several windows has its largest score. No answer has its least score in
    any window, since most windows of a long text hold none.

    Args:
        windows: The windows.
        max_answer_length: Maximum number of tokens of a span.
        no_answer: Whether no answer is a candidate.
        count: Maximum number of candidates.

    Examples:
        >>> places = np.array([[-1, -1], [0, 3], [4, 7]])
        >>> window = Window(places, np.array([0.0, 2.0, 1.0]), np.array([0.0, 1.0, 3.0]))
        >>> [(one.start, one.end) for one in best_answers([window], 2, no_answer=False)]
        [(0, 7), (4, 7), (0, 3)]
    """
    found: dict[tuple[int, int], float] = {}
    for places, start, end in windows:
        tokens = np.flatnonzero(places[:, 0] >= 0)
        length = min(max_answer_length, len(tokens))
        scores = np.full((len(tokens), length), -np.inf)
        for more in range(length):
            first, last = tokens[: len(tokens) - more], tokens[more:]
            scores[: len(first), more] = np.float64(start[first]) + end[last]
        for place in np.argsort(-scores, axis=None, kind="stable")[:count].tolist():
            number, more = divmod(place, length)
            score = float(scores[number, more])
            if np.isfinite(score):
                span = int(places[tokens[number], 0]), int(places[tokens[number + more], 1])
                found[span] = max(score, found.get(span, -np.inf))
    if no_answer or not found:
        found[0, 0] = min(float(start[0]) + float(end[0]) for _, start, end in windows)
    ordered = sorted(found.items(), key=lambda item: -item[1])[:count]
    return [Candidate(*span, score) for span, score in ordered]


def _positions(place: Int[np.ndarray, "tokens 2"], answer: Answer) -> tuple[int, int]:
    """The first and the last token of an answer in a window; 0 if the window cuts it."""
    start, end = answer.start, answer.start + len(answer.text)
    tokens = np.flatnonzero(place[:, 0] >= 0)
    if not len(tokens) or place[tokens[0], 0] > start or place[tokens[-1], 1] < end:
        return 0, 0
    first = tokens[np.flatnonzero(place[tokens, 0] <= start)[-1]]
    last = tokens[np.flatnonzero(place[tokens, 1] >= end)[0]]
    return (int(first), int(last)) if first <= last else (0, 0)


def normalized(answer: str) -> str:
    """An answer as SQuAD's script compares it: without case, punctuation, articles, spaces.

    Examples:
        >>> normalized("The  U.S.-dollar")
        'usdollar'
    """
    kept = "".join(char for char in answer.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def squad_scores(predicted: str, answers: Sequence[str], *, no_answer: bool) -> tuple[float, float]:
    """Exact match and F1 of a prediction, the largest over all right answers.

    Args:
        predicted: The predicted answer; empty for none.
        answers: The right ones; none if there is no answer.
        no_answer: Whether to count as the script of SQuAD 2.0 does: two empty answers are equal,
            and right answers without a word are left out. In that of 1.1 their F1 is 0.

    References:
        Rajpurkar et al., 2016, section 6.1, https://arxiv.org/abs/1606.05250, and the evaluation
        scripts of SQuAD 1.1 and 2.0

    Examples:
        >>> squad_scores("red fox", ["the fox", "a dog"], no_answer=False)
        (0.0, 0.6666666666666666)
    """
    texts = list(answers)
    if no_answer:
        texts = [text for text in texts if normalized(text)] or [""]
    ours = normalized(predicted)
    exact = max(float(ours == normalized(text)) for text in texts)
    return exact, max(_f1(ours.split(), normalized(text).split(), no_answer) for text in texts)


def _f1(ours: list[str], theirs: list[str], no_answer: bool) -> float:
    if no_answer and not (ours and theirs):
        return float(ours == theirs)
    common = (collections.Counter(ours) & collections.Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0
