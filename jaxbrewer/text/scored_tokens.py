"""Tokens and the log-probabilities of their candidates, as arrays."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import UsageError


class ScoredTokens(NamedTuple):
    """Log-probabilities of the candidates for some tokens; rows of one example are adjacent.

    Attributes:
        lines: The line, or row, of the file, ``[tokens]``.
        examples: The number of the example, ``[tokens]``.
        places: The place of the token in its document, or among the tokens of its answers,
            ``[tokens]``.
        of_answer: Whether places count the tokens of answers alone.
        tokens: The token itself, ``[tokens]``; -1 where the file lists it among the candidates
            alone.
        ids: Candidates, ``[tokens, k]``; -1 where there are fewer.
        scores: Their log-probabilities or, with ``log_tail``, logits, ``[tokens, k]``.
        log_tail: Log-sum-exp of the other logits at each temperature, ``[tokens, t]``.
    """

    lines: Int[np.ndarray, " tokens"]
    examples: Int[np.ndarray, " tokens"]
    places: Int[np.ndarray, " tokens"]
    of_answer: bool
    tokens: Int[np.ndarray, " tokens"]
    ids: Int[np.ndarray, "tokens k"]
    scores: Float[np.ndarray, "tokens k"]
    log_tail: Float[np.ndarray, "tokens t"] | None = None

    def take(self, chosen: Bool[np.ndarray, " tokens"]) -> "ScoredTokens":
        """These tokens alone."""
        if chosen.all():
            return self
        arrays = {
            name: value[chosen]
            for name, value in self._asdict().items()
            if isinstance(value, np.ndarray)
        }
        return self._replace(**arrays)

    def followed_by(self, other: "ScoredTokens") -> "ScoredTokens":
        """Both, one after the other; candidates are padded to the larger number.

        Raises:
            UsageError: One counts the tokens of answers, the other those of documents.
        """
        if self.of_answer != other.of_answer:
            raise UsageError("Prompts and answers are scored in one file.")
        width = max(self.ids.shape[1], other.ids.shape[1])

        def padded(array: np.ndarray, fill: float) -> np.ndarray:
            return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

        parts = (self, other)
        both = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("lines", "examples", "places", "tokens")
        }
        tails = [part.log_tail for part in parts]
        return ScoredTokens(
            of_answer=self.of_answer,
            ids=np.concatenate([padded(part.ids, -1) for part in parts]),
            scores=np.concatenate([padded(part.scores, -math.inf) for part in parts]),
            log_tail=None if any(tail is None for tail in tails) else np.concatenate(tails),  # type: ignore[arg-type]
            **both,
        )
