"""Language modeling: the next token of plain texts, completions and conversations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...models.model_directory import ModelDirectory
from ..corpus import Columns, Corpus, encode_corpus, read_corpus
from ..documents import LOSS_MASK, Documents, PackedLoader
from ..loader import TextLoader, TokenLoader
from ..rows import Source
from ..tokenize import Encoded, Tokenizer
from ..tokenizer_files import Truncation
from .label_loss import PLAIN
from .measure import Measure
from .task import Arrays, Head, Predictions, Task

_FORMS = {
    "text": "plain texts",
    "completion": "completions of prompts",
    "messages": "conversations, of which the assistant's words are learned",
}


class LanguageModeling(Task[Corpus]):
    """The next token of texts, of completions, or of the assistant's words in conversations."""

    name = "language-modeling"
    head = "causal-language-modeling"
    metrics = ("perplexity", "accuracy", "bits_per_byte")
    main_metric = "perplexity"
    larger_is_better = False
    learns_from_text = True
    keeps_both = True

    def read(
        self, path: Source, *, names: Sequence[str] | None = None, origin: str = "data.train"
    ) -> Corpus:
        """Reads ``data.messages``, ``data.prompt`` and ``data.completion``, or ``data.text``."""
        data = self.data
        columns = Columns(data.text, data.prompt, data.completion, data.messages)
        return read_corpus(path, columns)

    def read_unlabelled(self, path: Source) -> Corpus:
        """Reads the same columns: the labels of a text are its own tokens."""
        return self.read(path)

    def encode(self, tokenizer: Tokenizer, examples: Corpus) -> Documents:
        """Tokenizes texts and cuts them into windows of ``data.max_length`` tokens."""
        documents = self.uncut(tokenizer, examples)
        return documents.windows(self.data.max_length, truncate=self.data.truncate)

    @property
    def truncation(self) -> Truncation:
        """None: every window of a text is read, and a prompt may be as long as the model reads."""
        return Truncation(self.data.max_length, None)

    def uncut(self, tokenizer: Tokenizer, examples: Corpus) -> Documents:
        """Tokenizes texts."""
        return encode_corpus(tokenizer, examples, learn_prompts=self.data.learn_prompts)

    def make_loader(self, encoded: Encoded, batch_size: int, **options: Any) -> TokenLoader:
        """Rows of ``data.max_length`` tokens with several documents each, if ``data.packed``."""
        if not self.data.packed:
            return TextLoader(encoded, batch_size, **options)
        assert isinstance(encoded, Documents)
        options.pop("num_widths", None)  # packed rows have one width
        return PackedLoader(encoded, batch_size, self.data.max_length, **options)

    def describe(self, examples: Corpus) -> list[tuple[str, str]]:
        """What the texts are, and how they lie in batches."""
        length = self.data.max_length
        rows = f"packed in rows of {length} tokens" if self.data.packed else "one per row"
        rest = "cut off" if self.data.truncate else "cut into windows"
        return [("documents", f"{_FORMS[examples.form]}, {rows}; longer ones are {rest}")]

    def head_to_train(self, source: ModelDirectory, examples: Corpus) -> Head:
        """The model's own head: a language model is trained further."""
        return self.head_to_use(source, examples)

    def head_to_use(self, source: ModelDirectory, examples: Corpus) -> Head:
        """The model's own head, whose logits are computed in chunks."""
        self.require_head(source)
        return Head(settings={"fused_logits": True})

    def adaptor(self, batch: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Logits, their mask, labels and the labels' cross-entropy."""
        answer = {
            "logits": outputs["logits"],
            "logits_mask": batch[LOSS_MASK],
            "inputs_mask": batch["attention_mask"],
            "hidden": outputs.get("hidden_states"),
            "attention": outputs.get("attention_scores"),
        }
        if "labels" in batch:
            labels = batch["labels"]
            answer |= {"labels": labels, "losses": self._losses(outputs["logits"], labels)}
        return answer

    def _losses(self, logits: Any, labels: Any) -> Any:
        """The labels' loss; the plain one of a head is computed with that of the teacher."""
        from ...losses import LabelLoss, LogitsOf

        if not isinstance(logits, LogitsOf):
            return self.label_loss(logits, labels)
        if self.label_loss == PLAIN:
            return LabelLoss(labels)
        return self.label_loss(logits.logits(), labels)

    def keep(self, batch: Arrays, outputs: Arrays) -> tuple[Arrays, Arrays]:
        """The label's loss, whether it is the likeliest token, and what differs from a teacher.

        A batch with ``teacher_outputs`` gives the divergence from the teacher as well.
        """
        import jax
        import jax.numpy as jnp

        from ...losses import LogitsOf, Positions, map_positions

        def of_positions(logits_S: Any, logits_T: Any, own: Positions) -> dict[str, Any]:
            log_p = jax.nn.log_softmax(logits_S.astype(jnp.float32), axis=-1)
            nats = -jnp.take_along_axis(log_p, own.labels[..., None], axis=-1)[..., 0]
            top = jnp.argmax(log_p, axis=-1)
            kept = {"nats": nats, "correct": top == own.labels, "top": top}
            if logits_T is not None:
                log_t = jax.nn.log_softmax(logits_T.astype(jnp.float32), axis=-1)
                kept["kl"] = jnp.sum(jnp.exp(log_t) * (log_t - log_p), axis=-1)
            return kept

        mask, logits = batch[LOSS_MASK] != 0, outputs["logits"]
        teacher = batch["teacher_outputs"]["logits"] if "teacher_outputs" in batch else None
        labels = Positions(labels=jnp.maximum(batch["labels"], 0))
        if isinstance(logits, LogitsOf):
            found = map_positions(of_positions, logits, teacher, labels)
        else:
            found = of_positions(logits, teacher, labels)
        return {}, {name: jnp.where(mask, values, 0) for name, values in found.items()}

    def measure(self, examples: Corpus, encoded: Encoded, predictions: Predictions) -> Measure:
        """Perplexity, accuracy, and bits per byte, which compares models across tokenizers."""
        sums = {
            "nats": predictions.tokens["nats"],
            "correct": predictions.tokens["correct"],
            "tokens": encoded.token_columns[LOSS_MASK],
            "bytes": encoded.token_facts["label_bytes"],
        }
        return Measure(per_document(encoded, sums, len(examples)), _perplexity)

    def agreement(
        self, examples: Corpus, encoded: Encoded, student: Predictions, teacher: Predictions
    ) -> Measure:
        """The share of equal likeliest tokens, and the KL divergence from the teacher in nats."""
        learned = encoded.token_columns[LOSS_MASK]
        sums = {
            "agree": (student.tokens["top"] == teacher.tokens["top"]) & (learned != 0),
            "tokens": learned,
        }
        if "kl" in student.tokens:
            sums["kl"] = student.tokens["kl"]
        return Measure(per_document(encoded, sums, len(examples)), _differences)

    def decode(
        self, examples: Corpus, encoded: Encoded, predictions: Predictions, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The log-probability of each document's labels, and their number."""
        sums = {
            "nats": predictions.tokens["nats"],
            "tokens": encoded.token_columns[LOSS_MASK],
        }
        sums = per_document(encoded, sums, len(examples))
        for nats, tokens in zip(sums["nats"], sums["tokens"], strict=True):
            yield {
                "log_probability": -float(nats),
                "tokens": int(tokens),
                "perplexity": math.exp(nats / max(tokens, 1)),
            }


def per_document(
    encoded: Encoded, tokens: Mapping[str, np.ndarray], count: int
) -> dict[str, Float[np.ndarray, " documents"]]:
    """Sums of numbers of tokens over each document, whose pieces may be several."""
    document = np.repeat(encoded.facts["document"], encoded.lengths)
    return {
        name: np.bincount(document, values.astype(np.float64), minlength=count)
        for name, values in tokens.items()
    }


def _perplexity(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    nats, tokens = sums["nats"].sum(), sums["tokens"].sum()
    text_bytes = sums["bytes"].sum()
    return {
        "perplexity": np.exp(nats / tokens),
        "accuracy": sums["correct"].sum() / tokens,
        "bits_per_byte": nats / math.log(2) / text_bytes if text_bytes else math.nan,
    }


def _differences(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    tokens = sums["tokens"].sum()
    found = {"agreement": sums["agree"].sum() / tokens}
    return {**found, "kl": sums["kl"].sum() / tokens} if "kl" in sums else found
