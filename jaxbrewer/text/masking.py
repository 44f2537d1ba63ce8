"""Masked tokens of masked language models, drawn anew in every epoch or once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..errors import UsageError
from .labels import UNLABELLED
from .loader import TextLoader
from .tokenize import Encoded, Tokenizer

LABELS, TOKEN = "labels", "token"
"""The labels in batches, and the unmasked tokens beside them."""

Ids = Int[np.ndarray, " tokens"]


@dataclasses.dataclass(frozen=True)
class Masking:
    """How tokens are chosen and masked.

    Of the chosen tokens 80% become the mask, 10% a random token, and 10% stay as they are.

    Attributes:
        probability: The share of a text's tokens that is chosen, at least one.
        mask_id: Id of the mask.
        vocab_size: Random tokens are below it.
        special: Tokens that are never chosen.

    References:
        Devlin et al., 2019, section 3.1, https://arxiv.org/abs/1810.04805
    """

    probability: float
    mask_id: int
    vocab_size: int
    special: frozenset[int] = frozenset()

    def draw(self, tokens: Ids, key: Sequence[int]) -> tuple[Ids, Ids]:
        """Masks a text.

        Args:
            tokens: Its tokens.
            key: Numbers that decide what is drawn, such as a seed, an epoch and the text's number.

        Returns:
            The tokens with masks, and the labels: the tokens that were chosen, elsewhere
            ``UNLABELLED``.

        Examples:
            >>> masking = Masking(0.25, mask_id=9, vocab_size=10, special=frozenset([0, 1]))
            >>> inputs, labels = masking.draw(np.array([0, 5, 6, 7, 8, 1]), [0, 0, 3])
            >>> int(np.sum(labels != UNLABELLED)), (inputs[[0, -1]] == [0, 1]).all().item()
            (1, True)
        """
        draw = np.random.default_rng(list(key))
        places = np.flatnonzero(~np.isin(tokens, list(self.special)))
        inputs, labels = tokens.copy(), np.full_like(tokens, UNLABELLED)
        if not len(places):
            return inputs, labels
        count = max(round(self.probability * len(places)), 1)
        chosen = draw.choice(places, count, replace=False)
        labels[chosen] = tokens[chosen]
        kind = draw.random(count)
        inputs[chosen[kind < 0.8]] = self.mask_id
        others = chosen[(kind >= 0.8) & (kind < 0.9)]
        inputs[others] = draw.integers(0, self.vocab_size, len(others))
        return inputs, labels


def masking_of(tokenizer: Tokenizer, probability: float) -> Masking:
    """The masking of a tokenizer's tokens.

    Raises:
        UsageError: It has no token for the mask.
    """
    mask_id = tokenizer.mask_id
    if mask_id is None:
        raise UsageError(
            f"The tokenizer of {tokenizer.directory} has no mask token, which a masked language "
            "model needs: name it as mask_token in tokenizer_config.json."
        )
    before, after = tokenizer.around
    special = frozenset([*before, *after])
    return Masking(probability, mask_id, tokenizer.vocab_size, special)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Encoded):
    """Rows with masks, the labels in :data:`LABELS`, and the unmasked tokens in :data:`TOKEN`.

    Attributes:
        masking: How they were masked, and are masked anew.
    """

    masking: Masking


def with_masks(encoded: Encoded, masking: Masking) -> Masked:
    """Masks every row once, always in the same way."""
    rows = np.split(encoded.input_ids, encoded.offsets[1:-1])
    drawn = [masking.draw(row, [0, 0, number]) for number, row in enumerate(rows)]
    inputs, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    fields = {field.name: getattr(encoded, field.name) for field in dataclasses.fields(Encoded)}
    fields |= {
        "input_ids": inputs,
        "token_columns": {**encoded.token_columns, LABELS: labels},
        "token_facts": {**encoded.token_facts, TOKEN: encoded.input_ids},
    }
    return Masked(**fields, masking=masking)


class MaskedLoader(TextLoader):
    """Loads batches whose masks are drawn from the seed, the epoch and the row's number.

    A resumed training, the teacher and the student therefore see the same masks.

    Args:
        encoded: The rows, whose own masks are not used.
        batch_size: Rows in a batch.
        seed: Seed of the orders and of the masks.
        options: Other options of :class:`TextLoader`.
    """

    def __init__(self, encoded: Masked, batch_size: int, *, seed: int = 0, **options: Any):
        self._masking, self._tokens = encoded.masking, encoded.token_facts[TOKEN]
        self._offsets = encoded.offsets
        super().__init__(encoded, batch_size, seed=seed, **options)

    def _batch(
        self, examples: Int[np.ndarray, " examples"], limit: int, epoch: int
    ) -> dict[str, Any]:
        batch = super()._batch(examples, limit, epoch)
        for place, row in enumerate(examples):
            tokens = self._tokens[self._offsets[row] : self._offsets[row + 1]]
            inputs, labels = self._masking.draw(tokens, [self._seed, epoch, int(row)])
            batch["input_ids"][place, : len(tokens)] = inputs
            batch[LABELS][place, : len(tokens)] = labels
        return batch
