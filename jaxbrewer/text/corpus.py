"""Texts of language models: plain text, prompts with completions, and conversations."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..errors import UsageError, reason_of, suggest
from .chat import ChatTemplate, check_messages
from .documents import Documents, make_documents
from .labels import check_text
from .rows import Rows, Source, read_rows
from .tokenize import Spans, Tokenizer


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns of a language model's texts; a file has one of three sets.

    Attributes:
        text: A text, all of which is learned.
        prompt: A prompt, which is not learned, ...
        completion: ... and its completion, which is.
        messages: A conversation, of which the assistant's words are learned.
    """

    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"

    def forms(self) -> dict[str, tuple[str, ...]]:
        """The columns of each form of text."""
        return {
            "messages": (self.messages,),
            "completion": (self.prompt, self.completion),
            "text": (self.text,),
        }


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The texts of one or several files, in one form.

    Attributes:
        form: ``"text"``, ``"completion"`` or ``"messages"``.
        items: A string, a pair of strings, or a list of messages per text.
        places: The file and line of each, for messages.
    """

    form: str
    items: list[Any]
    places: list[str]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> "Corpus":
        """Selects texts by number, in this order."""
        return dataclasses.replace(
            self,
            items=[self.items[row] for row in rows],
            places=[self.places[row] for row in rows],
        )

    def with_unlabelled(self, more: "Corpus") -> "Corpus":
        """Appends the texts of ``more``.

        Raises:
            UsageError: They have another form.
        """
        if more.form != self.form:
            raise UsageError(
                f"{more.places[0]} has the form {more.form!r}, the other texts {self.form!r}."
            )
        return Corpus(self.form, self.items + more.items, self.places + more.places)


def read_corpus(path: Source, columns: Columns = Columns()) -> Corpus:
    """Reads a language model's texts; see :func:`~jaxbrewer.text.rows.read_rows` for formats.

    A file ``.txt`` is one text. In other files the columns of the first row decide the form:
    conversations, prompts with completions, or plain texts.

    Raises:
        UsageError: The file cannot be read, is empty, or lacks the columns; a text is empty or no
            string; messages have no role or content.
    """
    if not isinstance(path, Rows) and Path(path).suffix.lower() == ".txt":
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
        return Corpus("text", [check_text(text, f"{path}: the text")], [str(path)])
    form, items, places = "", [], []
    for line, row in read_rows(path):
        form = form or _form_of(row, columns, f"{path}:{line}")
        items.append(_item(row, form, columns, f"{path}:{line}"))
        places.append(f"{path}:{line}")
    if not items:
        raise UsageError(f"{path} is empty: it has no texts.")
    return Corpus(form, items, places)


def _form_of(row: Mapping[str, Any], columns: Columns, where: str) -> str:
    for form, names in columns.forms().items():
        if all(row.get(name) is not None for name in names):
            return form
    forms = "; ".join(" and ".join(map(repr, names)) for names in columns.forms().values())
    raise UsageError(f"{where}: none of the columns {forms}: {suggest(columns.text, row)}")


def _item(row: Mapping[str, Any], form: str, columns: Columns, where: str) -> Any:
    names = columns.forms()[form]
    for name in names:
        if name not in row:
            raise UsageError(f"{where}: no column {name!r}: {suggest(name, row)}")
    if form == "messages":
        return check_messages(row[names[0]], f"{where}: the column {names[0]!r}")
    texts = tuple(check_text(row[name], f"{where}: the column {name!r}") for name in names)
    return texts if form == "completion" else texts[0]


class _Tokens(NamedTuple):
    """One document: its tokens, which are learned, and the bytes of each."""

    ids: Int[np.ndarray, " tokens"]
    is_target: Bool[np.ndarray, " tokens"]
    bytes: Int[np.ndarray, " tokens"]


def encode_corpus(
    tokenizer: Tokenizer, corpus: Corpus, *, end: bool = True, learn_prompts: bool = False
) -> Documents:
    """Tokenizes a corpus.

    A plain text, and a prompt, begins with the special tokens that the tokenizer puts before a
    text. Prompt and completion are tokenized separately, as they are when a model completes a
    prompt. A conversation is rendered with the tokenizer's chat template, which writes special
    tokens itself.

    Args:
        tokenizer: The tokenizer.
        corpus: The texts.
        end: Whether a text and a completion end with the tokenizer's ``eos_token``, so that a
            model learns to stop.
        learn_prompts: Whether prompts, and messages of others than the assistant, are learned too.

    Raises:
        UsageError: A text has fewer than two tokens or nothing to learn, or the template refuses
            a conversation; the message names file and line.
    """
    if corpus.form == "messages":
        documents = _conversations(tokenizer, corpus)
    else:
        documents = _texts(tokenizer, corpus, end)
    for own, place in zip(documents, corpus.places, strict=True):
        if len(own.ids) < 2:
            raise UsageError(f"{place}: the text has {len(own.ids)} tokens: nothing follows them.")
        if not own.is_target[1:].any() and not learn_prompts:
            raise UsageError(f"{place}: nothing to learn: no token belongs to an answer.")
    return make_documents(
        [own.ids for own in documents],
        None if learn_prompts else [own.is_target for own in documents],
        [own.bytes for own in documents],
        pad_id=tokenizer.pad_id,
    )


def _texts(tokenizer: Tokenizer, corpus: Corpus, end: bool) -> list[_Tokens]:
    """The tokens of plain texts, or of prompts and their completions."""
    before, after = map(np.array, tokenizer.around)
    eos = tokenizer.eos_id
    if end and eos is not None and eos not in after.tolist():
        after = np.append(after, eos)
    parts = corpus.items if corpus.form == "completion" else [("", text) for text in corpus.items]
    prompts = tokenizer.spans([prompt for prompt, _ in parts])
    answers = tokenizer.spans([answer for _, answer in parts])
    documents = []
    for pair, prompt, answer in zip(parts, prompts, answers, strict=True):
        ids = np.concatenate([before, prompt.ids, answer.ids, after]).astype(np.int32)
        is_target = np.arange(len(ids)) >= len(before) + len(prompt.ids)
        counts = [
            np.zeros(len(before), np.int64),
            _bytes_of(pair[0], prompt),
            _bytes_of(pair[1], answer),
            np.zeros(len(after), np.int64),
        ]
        documents.append(_Tokens(ids, is_target, np.concatenate(counts)))
    return documents


def _conversations(tokenizer: Tokenizer, corpus: Corpus) -> list[_Tokens]:
    template = ChatTemplate(tokenizer.directory)
    rendered = []
    for messages, place in zip(corpus.items, corpus.places, strict=True):
        try:
            rendered.append(template.render_with_spans(messages))
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None
    documents = []
    tokens = tokenizer.spans([conversation.text for conversation in rendered])
    for conversation, own in zip(rendered, tokens, strict=True):
        is_target = np.zeros(len(own.ids), bool)
        for start, stop in conversation.spans:
            is_target |= (own.places[:, 0] < stop) & (own.places[:, 1] > start)
        documents.append(_Tokens(own.ids, is_target, _bytes_of(conversation.text, own)))
    return documents


def _bytes_of(text: str, tokens: Spans) -> Int[np.ndarray, " tokens"]:
    """UTF-8 bytes of each token's text; what lies between two tokens counts with the second.

    Several tokens of one character share its bytes by giving them to the first.
    """
    ends = np.maximum.accumulate(tokens.places[:, 1]) if len(tokens.ids) else tokens.places[:, 1]
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        sizes = 1 + (points >= 0x80).astype(int) + (points >= 0x800) + (points >= 0x10000)
        ends = np.append(0, np.cumsum(sizes))[ends]
    return np.diff(ends, prepend=0)
