"""Sentence embeddings: of texts, or of pairs of texts with scores."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...configs import DataConfig
from ...configs.auto import needs_of_task
from ...errors import UsageError
from ...models.model_directory import ModelDirectory
from ...models.pooling import MODULES, Pooling
from ..read import Examples, read_columns, read_examples
from ..rows import Source, read_rows
from ..tokenize import Encoded, Tokenizer
from .classification import shared_outputs
from .measure import Measure, Statistics
from .regression import average_ranks, check_number, pearson
from .task import Arrays, Head, Predictions, Task

NEIGHBOURS = 10
"""Number of nearest texts that a student's and a teacher's embeddings are compared by."""

CONTRASTIVE_SCALE = 20.0
"""What multiplies the cosines of the texts of a batch, before their softmax."""


class Embeddings(Task[Examples]):
    """An embedding of each text, whose cosines say how similar texts are."""

    name = "embeddings"
    head = "feature-extraction"
    metrics: tuple[str, ...] = ("spearman", "pearson")
    main_metric = "spearman"
    reads_same_tokens = False
    learns_from_text = True
    distillation_defaults = needs_of_task(name)
    unscored = (
        "No metrics: data.task embeddings reads no labels. Train a head with `jaxbrewer train`, or "
        "give pairs of texts (--text-pair) or a model to compare with (--teacher)."
    )

    def __init__(self, data: DataConfig):
        super().__init__(data)
        if data.score is None:  # no scores to correlate with
            self.metrics = ("recall_at_1", "recall_at_10", "mean_reciprocal_rank")
            self.main_metric = "recall_at_1"
        if data.text_pair is None:
            self.metrics = ()

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Examples:
        """Reads ``data.text``, ``data.text_pair`` if it is set, and a score in ``data.score``.

        Scores lie in ``data.score_range``. If ``data.score`` is null, all pairs mean the same.
        """
        data = self.data
        if data.text_pair is None:
            return self.read_unlabelled(path)
        columns = {"text": data.text, "text_pair": data.text_pair}
        if data.score is None:
            found, _ = read_columns(path, columns)
            scores = np.ones(len(found["text"]), np.float32)
        else:
            found, _ = read_columns(
                path, {**columns, "score": data.score}, {"score": self._check_score}
            )
            scores = np.array(found["score"], np.float32)
        return Examples(found["text"], found["text_pair"], scores)

    def _check_score(self, value: Any, where: str) -> float:
        """A score of a file as a cosine: 0 for the least of the range, 1 for the largest."""
        least, largest = self.data.score_range
        number = check_number(value, where)
        if not least <= number <= largest:
            raise UsageError(
                f"{where} is {number:g}, outside of data.score_range [{least:g}, {largest:g}]: "
                "give the scores of the least and of the most similar pairs there."
            )
        return (number - least) / (largest - least)

    def read_unlabelled(self, path: Source) -> Examples:
        """Reads ``data.text``, and ``data.text_pair`` where the file has that column."""
        pair = self.data.text_pair
        if pair is not None and pair not in next((row for _, row in read_rows(path)), {}):
            pair = None
        return read_examples(path, text=self.data.text, text_pair=pair, label=None)

    def join(self, examples: Examples, more: Examples) -> Examples:
        """Appends texts to pairs: two by two, without a score; an odd last one with itself."""
        if examples.pairs is not None and more.pairs is None:
            texts = more.texts + more.texts[-1:] * (len(more) % 2)
            more = Examples(texts[::2], texts[1::2])
        return examples.with_unlabelled(more)

    def encode(self, tokenizer: Tokenizer, examples: Examples) -> Encoded:
        """Tokenizes the texts; the two of a pair are rows that stay together."""
        if examples.pairs is None:
            return tokenizer.encode(examples.texts, max_length=self.data.max_length)
        both = [text for pair in zip(examples.texts, examples.pairs, strict=True) for text in pair]
        encoded = tokenizer.encode(both, max_length=self.data.max_length)
        scores = examples.labels
        columns = {} if scores is None else {"labels": np.repeat(scores, 2)}
        return dataclasses.replace(encoded, columns=columns, group=2)

    def describe(self, examples: Examples) -> list[tuple[str, str]]:
        """Whether there are pairs, and what is learned from them."""
        if examples.pairs is None:
            return [("examples", "single texts, which have no score")]
        kind = (
            "pairs that mean the same, each against the others of its batch"
            if self.data.score is None
            else "pairs with scores, which are compared with cosines"
        )
        return [("examples", kind)]

    # The head

    def settings_of(self, source: ModelDirectory) -> Mapping[str, Any]:
        """The pooling of a model that has none of its own."""
        if os.path.isfile(source.directory / MODULES):
            return {}
        return {"pooling": Pooling(mode=self.data.pooling)}

    def head_to_train(self, source: ModelDirectory, examples: Examples) -> Head:
        """No head; the examples must be pairs."""
        self.require_head(source)
        if examples.pairs is None:
            raise UsageError(
                "data.train has single texts, from which no encoder can be trained alone: set "
                "data.text_pair, or distil a teacher."
            )
        return Head()

    def head_to_use(self, source: ModelDirectory, examples: Examples) -> Head:
        """No head: every encoder embeds texts."""
        self.require_head(source)
        return Head()

    def require_head(self, source: ModelDirectory) -> None:
        """Raises :class:`UsageError` if a model is no encoder."""
        if not source.has_head(self.head):
            raise UsageError(
                f"{source.directory} is a model of type {source.model_type!r}, which is no "
                f"encoder: data.task {self.name!r} needs one."
            )

    @classmethod
    def is_task_of(cls, source: ModelDirectory) -> bool:
        """Whether it is a directory of sentence-transformers."""
        return source.has_head(cls.head) and os.path.isfile(source.directory / MODULES)

    # The model's outputs

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """The embedding as a feature, and the loss of the pairs' scores; NaN is no score.

        The loss is the squared difference of cosine and score. For pairs that mean the same it is
        the cross-entropy of each pair among the cosines of its text with all second texts, times
        ``CONTRASTIVE_SCALE`` (Henderson et al., 2017, section 4.4,
        https://arxiv.org/abs/1705.00652).
        """
        import jax.numpy as jnp
        import optax

        from ...losses import masked_mean

        embedding = outputs["embedding"]
        answer = {"embedding": [embedding], **shared_outputs(batch, outputs)}
        if "labels" not in batch:
            return answer
        scores = batch["labels"][::2]
        unit = _unit(embedding.astype(jnp.float32))
        first, second = unit[::2], unit[1::2]
        has_score = ~jnp.isnan(scores)
        if self.data.score is None:
            logits = jnp.where(has_score[None], CONTRASTIVE_SCALE * first @ second.T, -jnp.inf)
            own = jnp.where(has_score, jnp.arange(len(scores)), jnp.argmax(has_score))
            logits = jnp.where(jnp.any(has_score), logits, 0)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, own)
        else:
            cosine = jnp.sum(first * second, axis=-1)
            losses = (cosine - jnp.where(has_score, scores, 0)) ** 2
        answer["losses"] = masked_mean(losses, has_score)
        return answer

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The embedding."""
        return {"embedding": outputs["embedding"]}, {}

    # Results

    def measure(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Measure:
        """Spearman's and Pearson's correlation of cosines and scores.

        Of pairs that mean the same: how often the second text is among the ones nearest to the
        first. Single texts have no metrics but those of :meth:`agreement`.
        """
        embedding = predictions.rows["embedding"]
        if examples.pairs is None:
            return Measure({"row": np.arange(len(examples))}, lambda _: {})
        first, second = unit_length(embedding[::2]), unit_length(embedding[1::2])
        if self.data.score is None:
            return _retrieval(places(first, second))
        assert examples.labels is not None
        known = np.isfinite(examples.labels)
        statistics = {
            "cosine": np.sum(first * second, axis=-1)[known],
            "score": np.float64(examples.labels[known]),
        }
        return Measure(statistics, _correlations)

    def agreement(
        self, examples: Examples, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """How near the student's embeddings are to the teacher's.

        ``recall_at_1`` and ``recall_at_10`` are the shares of texts whose embedding by the student
        finds their own among the nearest of the teacher's, and ``cosine`` is the mean cosine of
        both; they need equal widths. ``neighbours_at_10`` is the share of the teacher's ten
        nearest texts that are among the student's.
        """
        own, others = (unit_length(each.rows["embedding"]) for each in (student, teacher))
        rows = np.arange(len(own)).reshape(len(examples), -1)
        shared = shared_neighbours(own, others, NEIGHBOURS)
        statistics = {"neighbours": shared[rows]}
        if own.shape[1] == others.shape[1]:
            statistics |= {
                "place": places(own, others)[rows],
                "cosine": np.sum(own * others, axis=-1)[rows],
            }
        return Measure(statistics, _differences)

    def decode(
        self, examples: Examples, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The embedding, or the cosine of a pair."""
        embedding = predictions.rows["embedding"]
        if examples.pairs is None:
            for row in embedding:
                yield {"embedding": [float(value) for value in row]}
            return
        unit = unit_length(embedding)
        for first, second in zip(unit[::2], unit[1::2], strict=True):
            yield {"cosine": float(first @ second)}


def _unit(embedding: Any) -> Any:
    """Embeddings of length 1; a zero vector stays zero, with a gradient of zero."""
    import jax.numpy as jnp

    square = jnp.sum(embedding**2, axis=-1, keepdims=True)
    return jnp.where(square > 0, embedding / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def unit_length(embedding: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows width"]:
    """Embeddings scaled to length 1, in float64; a zero vector stays zero."""
    wide = np.float64(embedding)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)


def places(
    queries: Float[np.ndarray, "rows width"], index: Float[np.ndarray, "rows width"]
) -> Float[np.ndarray, " rows"]:
    """For each query, how many rows of the index are nearer to it than its own row.

    Args:
        queries: Vectors of length 1.
        index: Vectors of length 1, of the same texts.

    Examples:
        >>> index = np.eye(3)
        >>> places(index[[0, 2, 2]], index).tolist()
        [0.0, 1.0, 0.0]
    """
    found = np.zeros(len(queries))
    for start in range(0, len(queries), _ROWS):
        block = slice(start, start + _ROWS)
        cosines = queries[block] @ index.T
        rows = np.arange(len(cosines))
        own = cosines[rows, start + rows]
        found[block] = np.sum(cosines > own[:, None] + _TIE, axis=1)
    return found


def shared_neighbours(
    one: Float[np.ndarray, "rows _"], other: Float[np.ndarray, "rows _"], count: int
) -> Float[np.ndarray, " rows"]:
    """The share of each row's nearest other rows that two sets of embeddings have in common.

    Args:
        one: Vectors of length 1.
        other: Vectors of length 1 of the same texts, perhaps of another width.
        count: Number of nearest rows.

    Examples:
        >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1]])
        >>> shared_neighbours(x, x, 1).tolist(), shared_neighbours(x, x[[2, 1, 0]], 1).tolist()
        ([1.0, 1.0, 1.0], [1.0, 0.0, 1.0])
    """
    count = min(count, len(one) - 1)
    found = np.ones(len(one))
    for start in range(0, len(one) if count else 0, _ROWS):
        nearest = []
        for vectors in (one, other):
            cosines = vectors[start : start + _ROWS] @ vectors.T
            rows = np.arange(len(cosines))
            cosines[rows, start + rows] = -np.inf
            nearest.append(np.argpartition(-cosines, count - 1, axis=1)[:, :count])
        equal = nearest[0][:, :, None] == nearest[1][:, None, :]
        found[start : start + _ROWS] = equal.any(-1).mean(-1)
    return found


_ROWS = 1024
"""Rows compared with all others at once, which bounds the memory."""

_TIE = 1e-9
"""Differences between cosines below this are rounding."""


def _retrieval(place: Float[np.ndarray, " rows"]) -> Measure:
    def metrics_of(of: Statistics) -> dict[str, Any]:
        return {
            "recall_at_1": np.mean(of["place"] < 1),
            "recall_at_10": np.mean(of["place"] < 10),
            "mean_reciprocal_rank": np.mean(1 / (1 + of["place"])),
        }

    return Measure({"place": place}, metrics_of)


def _correlations(of: Statistics) -> dict[str, Any]:
    cosine, score = of["cosine"], of["score"]
    return {
        "spearman": pearson(average_ranks(cosine), average_ranks(score)),
        "pearson": pearson(cosine, score),
    }


def _differences(of: Statistics) -> dict[str, Any]:
    found = {"neighbours_at_10": np.mean(of["neighbours"])}
    if "place" not in of:
        return found
    return {
        "recall_at_1": np.mean(of["place"] < 1),
        "recall_at_10": np.mean(of["place"] < 10),
        "cosine": np.mean(of["cosine"]),
        **found,
    }
