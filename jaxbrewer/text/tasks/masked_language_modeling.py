"""Masked language modeling: the masked tokens of plain texts."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import UsageError
from ...models.model_directory import ModelDirectory
from ..labels import UNLABELLED
from ..loader import TextLoader, TokenLoader
from ..masking import LABELS, MaskedLoader, masking_of, with_masks
from ..read import Examples, read_examples
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from .classification import shared_outputs
from .language_modeling import per_document
from .measure import Measure, Statistics
from .task import Arrays, Head, Predictions, Task


class MaskedLanguageModeling(Task[Examples]):
    """The masked tokens of plain texts, which need no labels."""

    name = "masked-language-modeling"
    head = "masked-language-modeling"
    metrics = ("perplexity", "accuracy")
    main_metric = "perplexity"
    larger_is_better = False
    learns_from_text = True
    keeps_both = True
    label_columns = ()  # they are the masks, which the teacher needs too

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Examples:
        """Reads the column ``data.text``."""
        return read_examples(path, text=self.data.text, label=None)

    def read_unlabelled(self, path: Source) -> Examples:
        """Reads the same column: the labels of a text are its own tokens."""
        return self.read(path)

    def join(self, examples: Examples, more: Examples) -> Examples:
        """Appends texts, which are learned from like the others."""
        return Examples(examples.texts + more.texts)

    def encode(self, tokenizer: Tokenizer, examples: Examples) -> Encoded:
        """Cuts texts into windows of ``data.max_length`` tokens and masks each of them once.

        ``data.truncate`` keeps the first window alone.
        """
        encoded = encode_windows(
            tokenizer,
            examples.texts,
            self.data.max_length,
            one_each=self.data.truncate,
        )
        return with_masks(encoded, masking_of(tokenizer, self.data.mask_probability))

    def make_loader(self, encoded: Any, batch_size: int, **options: Any) -> TokenLoader:
        """Batches with new masks in every epoch, or with those of :meth:`encode`."""
        if self.data.static_masks:
            return TextLoader(encoded, batch_size, **options)
        return MaskedLoader(encoded, batch_size, **options)

    def require_cacheable(self) -> None:
        """Refuses a cache of outputs whose inputs change with every epoch."""
        if not self.data.static_masks:
            raise UsageError(
                "The masks of data.task 'masked-language-modeling' are new in every epoch, so the "
                "teacher's outputs cannot be cached: set data.static_masks, or drop the cache."
            )

    def describe(self, examples: Examples) -> list[tuple[str, str]]:
        """How much is masked, and when."""
        when = "once" if self.data.static_masks else "anew in every epoch"
        rest = "cut off" if self.data.truncate else "cut into windows"
        return [
            ("masks", f"{self.data.mask_probability:.0%} of the tokens, drawn {when}"),
            ("longer texts", rest),
        ]

    def head_to_train(self, source: ModelDirectory, examples: Examples) -> Head:
        """The model's own head, or a new one."""
        return Head(is_new=not source.has_head(self.head))

    def head_to_use(self, source: ModelDirectory, examples: Examples) -> Head:
        """The model's own head."""
        self.require_head(source)
        return Head()

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Logits at the masked tokens, their mask, these tokens and their cross-entropy.

        With ``data.static_masks`` logits are those of all positions, which a cache can store.
        """
        labels, logits = batch[LABELS], outputs["logits"]
        if not self.data.static_masks:
            _, labels, logits = self._at_masks(labels, outputs)
        return {
            "logits": logits,
            "logits_mask": labels != UNLABELLED,
            "labels": labels,
            "losses": self.label_loss(logits, labels),
            **shared_outputs(batch, outputs),
        }

    def _at_masks(self, labels: Any, outputs: Arrays) -> tuple[Any, Any, Any]:
        """The positions of the masked tokens, their labels and logits.

        All are ``[batch, places, ...]``, with as many places as a row of this width can have masks.
        """
        import jax.numpy as jnp

        places = max(round(self.data.mask_probability * labels.shape[1]), 1)
        positions = jnp.argsort(labels == UNLABELLED, axis=1, stable=True)[:, :places]
        labels = jnp.take_along_axis(labels, positions, axis=1)
        parts = outputs["logits_of"]
        hidden = jnp.take_along_axis(parts.hidden, positions[..., None], axis=1)
        return positions, labels, dataclasses.replace(parts, hidden=hidden).logits()

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """Of each masked token its loss, whether it is the likeliest, and the likeliest.

        A batch with ``teacher_outputs`` gives the divergence from the teacher as well.
        """
        import jax
        import jax.numpy as jnp

        def log_softmax(outputs: Arrays) -> tuple[Any, Any, Any]:
            positions, labels, logits = self._at_masks(batch[LABELS], outputs)
            return positions, labels, jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)

        positions, labels, log_p = log_softmax(outputs)
        own = jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        top = jnp.argmax(log_p, axis=-1)
        kept = {"nats": -own, "correct": top == labels, "top": top}
        if "teacher_outputs" in batch:
            _, _, log_t = log_softmax(batch["teacher_outputs"])
            kept["kl"] = jnp.sum(jnp.exp(log_t) * (log_t - log_p), axis=-1)
        rows = jnp.arange(len(positions))[:, None]

        def in_place(values: Any) -> Any:
            values = jnp.where(labels != UNLABELLED, values, 0)
            return jnp.zeros(batch[LABELS].shape, values.dtype).at[rows, positions].set(values)

        return {}, {name: in_place(values) for name, values in kept.items()}

    def measure(self, examples: Examples, encoded: Encoded, predictions: Predictions) -> Measure:
        """Perplexity of the masked tokens, and how often the likeliest token is theirs."""
        sums = {name: predictions.tokens[name] for name in ("nats", "correct")}
        return self._measure(examples, encoded, sums)

    def agreement(
        self, examples: Examples, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """The share of equal likeliest tokens, and the KL divergence from the teacher in nats."""
        agree = (student.tokens["top"] == teacher.tokens["top"]) & _is_masked(encoded)
        kl = {"kl": student.tokens["kl"]} if "kl" in student.tokens else {}
        return self._measure(examples, encoded, {"agreement": agree, **kl})

    def _measure(
        self, examples: Examples, encoded: Encoded, sums: Mapping[str, np.ndarray]
    ) -> Measure:
        counted = {**sums, "masked": _is_masked(encoded)}
        return Measure(per_document(encoded, counted, len(examples)), _means)

    def decode(
        self, examples: Examples, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The log-probability of each text's masked tokens, and their number."""
        sums = {"nats": predictions.tokens["nats"], "masked": _is_masked(encoded)}
        sums = per_document(encoded, sums, len(examples))
        for nats, masked in zip(sums["nats"], sums["masked"], strict=True):
            yield {
                "log_probability": -float(nats),
                "masked": int(masked),
                "perplexity": math.exp(nats / max(masked, 1)),
            }


def encode_windows(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, *, one_each: bool = False
) -> Encoded:
    """Cuts texts into windows with the tokenizer's special tokens around each.

    Args:
        tokenizer: The tokenizer.
        texts: The texts; one without any token has no window.
        max_length: Maximum number of tokens of a window, special ones included.
        one_each: Whether to keep the first window of each text alone.

    Returns:
        The windows, with the number of each one's text as the fact ``document``.

    Raises:
        UsageError: ``max_length`` leaves no room for text, or no text has any token.
    """
    before, after = tokenizer.around
    room = max_length - len(before) - len(after)
    if room < 1:
        raise UsageError(
            f"max_length must be above {len(before) + len(after)}, the number of special tokens, "
            f"got {max_length}."
        )
    rows, documents = [], []
    for number, spans in enumerate(tokenizer.spans(texts)):
        starts = range(0, min(len(spans.ids), room) if one_each else len(spans.ids), room)
        for start in starts:
            rows.append(np.concatenate([before, spans.ids[start : start + room], after]))
            documents.append(number)
    if not rows:
        raise UsageError(f"The tokenizer of {tokenizer.directory} makes no tokens of the texts.")
    ids = np.concatenate(rows).astype(np.int32)
    return Encoded(
        ids,
        np.zeros_like(ids),
        np.cumsum([0, *map(len, rows)]),
        tokenizer.pad_id,
        facts={"document": np.array(documents)},
        max_length=max_length,
    )


def _is_masked(encoded: Encoded) -> np.ndarray:
    is_masked: np.ndarray = encoded.token_columns[LABELS] != UNLABELLED
    return is_masked


def _means(sums: Statistics) -> dict[str, float]:
    masked = sums["masked"].sum()
    means = {name: sums[name].sum() / masked for name in sums if name != "masked"}
    if "nats" not in means:
        return means
    return {"perplexity": np.exp(means["nats"]), "accuracy": means["correct"]}
