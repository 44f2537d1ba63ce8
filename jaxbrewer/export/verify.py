"""Comparison of an artifact with its model on real inputs."""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..text import Tokenizer, Truncation
from ..text.tokenizer_files import load_tokenizer
from .program import Program

TOLERANCE = 1e-5
"""The largest difference of an exact artifact, where outputs are at most 1; it grows with them."""
LARGEST_ERROR = 0.5
"""The largest root-mean-square difference of a quantized artifact, relative to the outputs."""
MOST_TEXTS = 32
"""Given texts on which an export is compared."""
_UNCUT = 2**30
LONGEST_SAMPLE = 512
"""Tokens of the longest sample; models that read more are compared up to here."""

SAMPLE_TEXTS = (
    "A teacher shows a student how to solve it.",
    "Brewed slowly.",
    "The quick brown fox jumps over the lazy dog, and the dog, who has seen it all before, sleeps.",
    "In 1905 he published four papers: on light, on motion, on time, and on mass and energy.",
    "¿Dónde está la biblioteca? Übermorgen vielleicht; 明天也可以。",
    "It rained.",
    "What the model learns from soft targets is how it generalizes, not only what is right.",
)
"""Texts on which an export is compared unless others are given."""

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """How an artifact differs from its model.

    Attributes:
        max_abs_difference: The largest difference of an output, padding apart.
        relative_error: Root mean square of the differences over that of the outputs.
        largest_output: The largest absolute output of the model.
        same_argmax: Share of rows of the last axis whose largest entry is the same.
        batches: Number of batches that were compared.
        rows: Their texts.
        tokens: Their tokens, padding included.
    """

    max_abs_difference: float
    relative_error: float
    largest_output: float
    same_argmax: float
    batches: int
    rows: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for metadata."""
        return dataclasses.asdict(self)


def sample_inputs(
    program: Program,
    tokenizer: Tokenizer | None,
    texts: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
) -> list[Inputs]:
    """Batches of several sizes and lengths: one text, all texts, and one of the longest length.

    Args:
        program: The program.
        tokenizer: The model's; without one, token ids are random.
        texts: Real texts; by default :data:`SAMPLE_TEXTS`.
        max_length: The number of tokens to which the model's texts are cut, all but the one of
            the longest length.

    Raises:
        UsageError: The tokenizer makes ids that the model does not have, or there is no text.
    """
    longest = min(program.longest or LONGEST_SAMPLE, LONGEST_SAMPLE)
    vocabulary = program.facts["vocab_size"]
    if tokenizer is None:
        draw = np.random.default_rng(0)
        lengths = [min(n, longest) for n in (5, 9, 3, longest)]
        ids = [draw.integers(min(5, vocabulary - 1), vocabulary, n) for n in lengths]
        return [_padded(program, rows) for rows in (ids[:1], ids[:3], ids[3:])]
    check_tokenizer(program, tokenizer)
    chosen = list(SAMPLE_TEXTS if texts is None else texts)
    if not chosen:
        raise UsageError("There is no text to compare the export on.")
    cut = min(max_length or longest, longest)
    groups = [(chosen[:1], cut), (chosen[:MOST_TEXTS], cut), ([_long(chosen, longest)], longest)]
    batches: list[Inputs] = []
    for group, length in groups:
        encoded = tokenizer.encode(group, max_length=length)
        batch = encoded.batch(np.arange(len(encoded)), int(encoded.lengths.max()))
        batches.append({name: batch[name] for name in program.inputs})
    return batches


def check_tokenizer(program: Program, tokenizer: Tokenizer) -> None:
    """Refuses the tokenizer of another model.

    Raises:
        UsageError: It makes ids that the model does not have.
    """
    vocabulary = program.facts["vocab_size"]
    if tokenizer.vocab_size > vocabulary:
        raise UsageError(
            f"The tokenizer has {tokenizer.vocab_size:,} tokens, the model a vocab_size of "
            f"{vocabulary:,}: it is the tokenizer of another model."
        )


def _long(texts: Sequence[str], tokens: int) -> str:
    """A text of more than ``tokens`` tokens."""
    return " ".join([*texts] * (1 + tokens // len(texts)))


def check_saved_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    truncation: Truncation,
    texts: Sequence[str] | None = None,
) -> None:
    """Compares the tokens that another program makes with ``tokenizer.json`` with jaxbrewer's.

    Such a program loads the file and changes nothing, so it cuts long texts as the file says.

    Args:
        tokenizer: The model's.
        folder: The directory of the export; one without ``tokenizer.json`` has nothing to compare.
        truncation: How jaxbrewer cuts the model's texts.
        texts: Real texts; by default :data:`SAMPLE_TEXTS`. A text that must be cut is added.

    Raises:
        UsageError: The tokens of a text differ.
    """
    path = folder / "tokenizer.json"
    if not os.path.isfile(path):
        return
    chosen = list(texts or SAMPLE_TEXTS)[:MOST_TEXTS]
    long = _long(chosen, truncation.max_length)
    saved = load_tokenizer(folder)
    if truncation.strategy == "only_second":
        own = tokenizer.encode_windows(
            ["?"], [long], max_length=truncation.max_length, stride=truncation.stride
        )
        whole = saved.encode("?", long)
        others = [whole, *whole.overflowing]
    else:
        uncut = truncation.strategy is None
        own = tokenizer.encode(
            [*chosen, long], max_length=_UNCUT if uncut else truncation.max_length
        )
        others = saved.encode_batch([*chosen, long])
    rows = [row.tolist() for row in np.split(own.input_ids, own.offsets[1:-1])]
    found = [
        [i for i, mask in zip(other.ids, other.attention_mask, strict=True) if mask]
        for other in others
    ]
    if found != rows:
        raise UsageError(
            f"{path} makes other tokens of the texts (at most {max(map(len, found))}) than the "
            f"model reads (at most {max(map(len, rows))}), so that programs that load it predict "
            "otherwise: export the model again."
        )


def _padded(program: Program, ids: Sequence[np.ndarray]) -> Inputs:
    """Rows of token ids as one batch."""
    width = max(map(len, ids))

    def padded(rows: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([np.pad(row, (0, width - len(row))) for row in rows], np.int32)

    batch = {
        "input_ids": padded(ids),
        "attention_mask": padded(np.ones_like(row) for row in ids),
        "token_type_ids": padded(np.zeros_like(row) for row in ids),
    }
    return {name: batch[name] for name in program.inputs}


def compare(
    reference: Run,
    artifact: Run,
    batches: Sequence[Inputs],
    *,
    per_token: Collection[str] = (),
) -> Parity:
    """Runs both on all batches.

    Args:
        reference: The model.
        artifact: What was made of it.
        batches: Their inputs.
        per_token: Outputs that are not compared at padding.

    Raises:
        UsageError: The outputs have other names or shapes, or are not finite.

    Examples:
        >>> batch = {"attention_mask": np.ones((2, 3), int)}  # and what the model reads
        >>> run = lambda inputs: {"logits": np.array([[1.0, 2.0], [4.0, 3.0]])}
        >>> compare(run, run, [batch]).max_abs_difference
        0.0
    """
    differences, outputs, agreements = [], [], []
    for batch in batches:
        wanted, got = reference(batch), artifact(batch)
        if {n: x.shape for n, x in wanted.items()} != {n: x.shape for n, x in got.items()}:
            raise UsageError(
                f"The exported model returns {_shapes(got)}, the model {_shapes(wanted)}."
            )
        valid = batch["attention_mask"] != 0
        for name, value in wanted.items():
            one, other = value, np.asarray(got[name])
            is_per_token = name in per_token
            kept = [x[valid] if is_per_token else x.ravel() for x in (one, other)]
            if not np.isfinite(kept[1]).all():
                raise UsageError(f"The exported model returns {name} that are not finite.")
            outputs.append(np.ravel(kept[0]).astype(np.float64))
            differences.append(np.ravel(kept[1]).astype(np.float64) - outputs[-1])
            if is_per_token and value.ndim == 2:  # a score per token: which token is best
                one, other = (np.where(valid, x, -np.inf) for x in (one, other))
            elif is_per_token:
                one, other = kept
            agreements.append(np.ravel(one.argmax(-1) == other.argmax(-1)))
    difference, output = np.concatenate(differences), np.concatenate(outputs)
    scale = np.sqrt(np.mean(output**2))
    return Parity(
        max_abs_difference=float(np.abs(difference).max()),
        relative_error=float(np.sqrt(np.mean(difference**2)) / scale) if scale else 0.0,
        largest_output=float(np.abs(output).max()),
        same_argmax=float(np.concatenate(agreements).mean()),
        batches=len(batches),
        rows=sum(len(batch["attention_mask"]) for batch in batches),
        tokens=sum(batch["attention_mask"].size for batch in batches),
    )


def require(parity: Parity, *, quantized: bool) -> None:
    """Refuses an artifact that differs too much.

    Raises:
        UsageError: The largest difference exceeds :data:`TOLERANCE` times the largest output (or
            1), or, where weights are quantized, the relative error exceeds :data:`LARGEST_ERROR`.
    """
    if quantized and parity.relative_error > LARGEST_ERROR:
        raise UsageError(
            f"The int8 model differs from the model by {parity.relative_error:.0%} of its outputs, "
            f"more than {LARGEST_ERROR:.0%}: export it without --int8."
        )
    limit = TOLERANCE * max(1.0, parity.largest_output)
    if not quantized and parity.max_abs_difference > limit:
        raise UsageError(
            f"The exported model differs from the model by {parity.max_abs_difference:.2g}, more "
            f"than {limit:.2g}: nothing was exported."
        )


def _shapes(outputs: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in sorted(outputs.items()))
