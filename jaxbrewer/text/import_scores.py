"""Log-probabilities that were computed elsewhere -> a teacher cache."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..cache import Manifest, Storage
from ..cache.build import write_outputs
from ..data.packing import segment_positions
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..objective.log_probabilities import Candidates, largest_candidates, require_classes
from ..objective.top_k import TopK
from .documents import LOSS_MASK, Documents
from .loader import TextLoader
from .scored_tokens import ScoredTokens
from .served_scores import metadata_of, read_scores
from .tokenize import Tokenizer

INPUTS = ("attention_mask", "input_ids", "position_ids", "segment_ids")
"""The entries of a batch that decoders read."""

_BATCH_ROWS = 256


def import_scores(
    directory: str | Path,
    paths: Sequence[str | Path],
    documents: Documents,
    pieces: Documents,
    tokenizer: Tokenizer,
    *,
    classes: int,
    k: int | None = None,
    bits: int = 8,
    fingerprints: Mapping[str, str],
    names: Sequence[str] | None = None,
    batch_size: int = 64,
) -> Manifest:
    """Writes a cache of log-probabilities that files hold.

    The mass that a position's candidates leave of 1 is that of all other tokens.

    Args:
        directory: The directory of the cache: new, empty, or with an interrupted import.
        paths: Files; see :mod:`~jaxbrewer.text.served_scores`.
        documents: The texts, uncut.
        pieces: Their windows, as a training reads them.
        tokenizer: The tokenizer that made the documents.
        classes: The number of classes of the student's logits.
        k: Number of candidates kept; by default as many as the first token of the first file has.
        bits: Bits per logit.
        fingerprints: Digests that a reader of the cache must match.
        names: The name of each text in messages.
        batch_size: That of a build whose records are to be equal. It decides the width that a
            record remembers; trainings read records at any width.

    Raises:
        UsageError: A file is damaged; a token, its place or a candidate is not that of the texts
            and the vocabulary; probabilities add up to more than 1; or a text is missing.
    """
    given: dict[str, Any] = {}
    for path in paths:
        found = metadata_of(path)
        if given and found != given:
            raise UsageError(f"{path} comes from another cache than {paths[0]}.")
        given = given or found
    if given and given["tokenizer"] != fingerprints.get("tokenizer"):
        raise UsageError(f"{paths[0]} was exported from a cache with another tokenizer.")
    if given and given["classes"] != classes:
        raise UsageError(
            f"{paths[0]} was exported from logits of {given['classes']:,} classes, not {classes:,}."
        )
    temperatures = tuple(given.get("temperatures", (1.0,)))
    joined = _Join(documents, pieces, tokenizer, classes, k, temperatures, names, batch_size)
    batches = joined.batches(paths)
    first = next(batches, None)
    if first is None:
        raise UsageError(f"{paths[0]} is empty: it has no tokens.")

    def all_batches() -> Iterator[dict[str, Any]]:
        assert first is not None
        yield first
        yield from batches
        joined.require_all(paths)

    return write_outputs(
        directory,
        all_batches(),
        lambda _: joined.outputs,
        storage=Storage("top_k", joined.k, bits, temperatures),
        inputs=given.get("inputs", INPUTS),
        fingerprints={**given.get("fingerprints", {}), **fingerprints},
        settings=given.get("settings", {"origin": "imported"}),
    )


class _Join:
    """Joins scored tokens with the documents that they belong to."""

    def __init__(
        self,
        documents: Documents,
        pieces: Documents,
        tokenizer: Tokenizer,
        classes: int,
        k: int | None,
        temperatures: tuple[float, ...],
        names: Sequence[str] | None,
        batch_size: int,
    ):
        self._documents, self._pieces, self._tokenizer = documents, pieces, tokenizer
        self._classes, self._given_k, self._temperatures = classes, k, temperatures
        self.k = k or 0
        self._names = names
        # padded as `cache build` pads them, since records know the width of their batch
        self._widths = np.zeros(len(pieces), int)
        for batch in TextLoader(pieces, min(batch_size, len(pieces)), shuffle=False):
            self._widths[batch["example_id"]] = batch["input_ids"].shape[1]
        self._seen = np.zeros(len(documents), bool)
        self.outputs = Outputs()
        # of each piece, its first token among those of all documents
        self._first = documents.offsets[pieces.facts["document"]] + pieces.facts["first"]
        # the tokens of answers, each as the token before it
        self._learned = np.flatnonzero(documents.loss_mask)
        self._learned_of = np.searchsorted(self._learned, documents.offsets)
        self._ids_by_text: dict[bytes, int] | None = None

    def batches(self, paths: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
        """Batches of the documents that files hold; ``outputs`` are those of the last one."""
        for path in paths:
            rest: ScoredTokens | None = None
            for chunk in read_scores(path, self._id_of):
                chunk = chunk if rest is None else rest.followed_by(chunk)
                # the last document of a chunk may go on in the next one
                whole = chunk.examples != chunk.examples[-1:]
                rest = chunk.take(~whole)
                yield from self._batches(chunk.take(whole), path)
            if rest is not None:
                yield from self._batches(rest, path)

    def require_all(self, paths: Sequence[str | Path]) -> None:
        """Raises :class:`UsageError` if a document was in no file."""
        missing = np.flatnonzero(~self._seen)
        missing = missing[np.isin(missing, self._pieces.facts["document"])]
        if len(missing):
            raise UsageError(
                f"{paths[-1]}: the files lack {len(missing):,} of {len(self._seen):,} texts, the "
                f"first is {self._name(int(missing[0]))}."
            )

    def _name(self, document: int) -> str:
        return f"text {document}" + (f" ({self._names[document]})" if self._names else "")

    def _id_of(self, pair: Mapping[str, Any]) -> int | None:
        token = pair["token"]
        if isinstance(token, str) and token.startswith("token_id:"):
            return int(token[9:])
        if self._ids_by_text is None:
            self._ids_by_text = self._tokenizer.ids_by_bytes()
        text = pair.get("bytes")
        return self._ids_by_text.get(bytes(text) if text is not None else str(token).encode())

    def _batches(self, chunk: ScoredTokens, path: str | Path) -> Iterator[dict[str, Any]]:
        if not len(chunk.lines):
            return
        position = self._positions(chunk, path)
        candidates = self._candidates(chunk, path)
        has_loss = self._documents.loss_mask[position] != 0
        documents = np.unique(chunk.examples)
        repeated = documents[self._seen[documents]]
        if len(repeated):
            line = chunk.lines[np.argmax(chunk.examples == repeated[0])]
            raise UsageError(f"{path}:{line}: {self._name(int(repeated[0]))} comes a second time.")
        self._seen[documents] = True
        order = np.argsort(position, kind="stable")
        order = order[has_loss[order]]
        position = position[order]
        twice = np.flatnonzero(np.diff(position) == 0)
        if len(twice):
            line = chunk.lines[order[twice[0] + 1]]
            raise UsageError(f"{path}:{line}: a place of the text comes a second time.")
        rows = np.flatnonzero(np.isin(self._pieces.facts["document"], documents))
        for width in np.unique(self._widths[rows]):
            same = rows[self._widths[rows] == width]
            for start in range(0, len(same), _BATCH_ROWS):
                yield self._batch(same[start : start + _BATCH_ROWS], position, candidates, order)

    def _batch(
        self,
        rows: Int[np.ndarray, " rows"],
        position: Int[np.ndarray, " tokens"],
        candidates: Candidates,
        order: Int[np.ndarray, " tokens"],
    ) -> dict[str, Any]:
        """A batch of pieces; ``position`` is sorted, and ``order`` its rows of ``candidates``."""
        lengths = self._pieces.lengths[rows]
        batch = self._pieces.batch(rows, int(self._widths[rows[0]]))
        places, within = segment_positions(self._first[rows], lengths)
        row = np.repeat(np.arange(len(rows)), lengths)
        found = np.searchsorted(position, places)
        found = np.minimum(found, max(len(position) - 1, 0))
        there = position[found] == places if len(position) else np.zeros(len(places), bool)
        target, source = (row[there], within[there]), order[found[there]]
        shape = batch["input_ids"].shape
        indices = np.broadcast_to(np.arange(self.k, dtype=np.int32), (*shape, self.k)).copy()
        logits = np.zeros((*shape, self.k), np.float32)
        log_tail = np.zeros((*shape, len(self._temperatures)), np.float32)
        mask = np.zeros(shape, np.int32)
        indices[target], logits[target] = candidates.indices[source], candidates.logits[source]
        log_tail[target], mask[target] = candidates.log_tail[source], 1
        arrays: tuple[Any, Any, Any] = indices, logits, log_tail
        self.outputs = Outputs(
            logits=(TopK(*arrays, self._classes, self._temperatures),),  # type: ignore[arg-type]
            logits_mask=(mask,),  # type: ignore[arg-type]
            inputs_mask=batch["attention_mask"],
        )
        del batch["labels"], batch[LOSS_MASK]
        return {**batch, "example_id": rows.astype(np.int32)}

    def _positions(self, chunk: ScoredTokens, path: str | Path) -> Int[np.ndarray, " tokens"]:
        """The position that predicts each token, among the tokens of all documents."""

        def refuse(wrong: Bool[np.ndarray, " tokens"], what: Any) -> None:
            if wrong.any():
                row = int(np.argmax(wrong))
                raise UsageError(f"{path}:{chunk.lines[row]}: {what(row)}")

        count, offsets = len(self._documents), self._documents.offsets
        examples, places = chunk.examples, chunk.places
        refuse(
            (examples < 0) | (examples >= count),
            lambda row: f"example {examples[row]} is none of the {count:,} texts.",
        )
        if chunk.of_answer:
            starts, ends = self._learned_of[examples], self._learned_of[examples + 1]
            refuse(
                (places >= ends - starts),
                lambda row: (
                    f"{self._name(int(examples[row]))} has {ends[row] - starts[row]} tokens of "
                    f"answers, but the file scores more."
                ),
            )
            before = self._learned[starts + places]
        else:
            lengths = self._documents.lengths[examples]
            refuse(
                (places < 1) | (places >= lengths),
                lambda row: (
                    f"position {places[row]} of {self._name(int(examples[row]))} has no scores: "
                    f"its {lengths[row]} tokens have them from 1 to {lengths[row] - 1}."
                ),
            )
            before = offsets[examples] + places - 1
        own = self._documents.input_ids[before + 1]
        wrong = np.where(chunk.tokens < 0, ~(chunk.ids == own[:, None]).any(1), chunk.tokens != own)
        refuse(
            wrong,
            lambda row: (
                f"position {places[row]} of {self._name(int(examples[row]))} is token "
                f"{own[row]} ({self._tokenizer.decode([own[row]])!r}) in the data"
                + (f" and {chunk.tokens[row]} in the file" if chunk.tokens[row] >= 0 else
                   ", which the file does not score")
                + ": another text or another tokenizer."
            ),
        )  # fmt: skip
        return before

    def _candidates(self, chunk: ScoredTokens, path: str | Path) -> Candidates:
        def refuse(row: int, what: str) -> UsageError:
            return UsageError(f"{path}:{chunk.lines[row]}: position {chunk.places[row]}: {what}")

        if not self.k:
            self.k = max(int((chunk.ids[0] >= 0).sum()), 1)
        self.k = min(self.k, self._classes - 1)
        if chunk.log_tail is not None:
            if chunk.ids.shape[1] != self.k or chunk.log_tail.shape[1] != len(self._temperatures):
                raise refuse(0, f"{chunk.ids.shape[1]} logits, not {self.k}.")
            require_classes(chunk.ids, chunk.ids >= 0, self._classes, refuse)
            indices = np.where(chunk.ids < 0, self._classes, chunk.ids).astype(np.int32)
            if (np.diff(indices, axis=1) < 0).any() or np.isnan(chunk.scores).any():
                raise refuse(0, "the ids of logits must ascend, and no logit may be NaN.")
            return Candidates(
                indices, chunk.scores.astype(np.float32), chunk.log_tail.astype(np.float32)
            )
        return largest_candidates(chunk.ids, chunk.scores, self.k, self._classes, refuse)
