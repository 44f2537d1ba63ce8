"""Questions about texts, with their answers, from SQuAD's JSON and from files with columns."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ..errors import UsageError
from ..json_files import read_json
from .labels import check_text, shortened
from .read import value_of
from .rows import Source, read_rows


class Answer(NamedTuple):
    """An answer: a part of the text."""

    text: str
    start: int


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions, each about a text.

    Attributes:
        questions: The questions.
        contexts: The text that each is about.
        answers: The right answers to each, all of which stand in its text; empty if it has none,
            ``None`` if they are not known.
        ids: What the file calls each question; empty if it does not.
    """

    questions: list[str]
    contexts: list[str]
    answers: list[tuple[Answer, ...] | None]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> "Questions":
        """Selects questions by number, in this order."""
        return Questions(
            [self.questions[row] for row in rows],
            [self.contexts[row] for row in rows],
            [self.answers[row] for row in rows],
            [self.ids[row] for row in rows],
        )

    def with_unlabelled(self, more: "Questions") -> "Questions":
        """Appends the questions of ``more`` without their answers."""
        return Questions(
            self.questions + more.questions,
            self.contexts + more.contexts,
            [*self.answers, *[None] * len(more)],
            self.ids + more.ids,
        )


def read_questions(
    path: Source,
    *,
    question: str = "question",
    context: str = "context",
    answers: str | None = "answers",
    no_answer: bool = False,
) -> Questions:
    r"""Reads questions.

    A file ``.json`` has the form of SQuAD 1.1 or 2.0. Other files have columns; see
    :func:`~jaxbrewer.text.rows.read_rows` for formats. The column of answers has objects with the
    keys ``text`` and ``answer_start`` (characters from 0), in a list or, as Hugging Face
    ``datasets`` has them, as one object of two lists.

    Args:
        path: The file.
        question: Column of the question.
        context: Column of the text.
        answers: Column of the answers; ``None`` for questions without known answers.
        no_answer: Whether a question may have no answer.

    Raises:
        UsageError: The file cannot be read or is empty, a question has no answer, or an answer does
            not stand in its text.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "facts.jsonl")
        ...     _ = path.write_text('{"question": "Who?", "context": "I, Ada, did it.", "answers": '
        ...                         '[{"text": "Ada", "answer_start": 3}]}')
        ...     read_questions(path).answers
        [(Answer(text='Ada', start=3),)]
    """
    is_squad = isinstance(path, (str, Path)) and Path(path).suffix.lower() == ".json"
    rows = _squad(Path(str(path))) if is_squad else _columns(path, question, context, answers)
    found = Questions([], [], [], [])
    for place, row in rows:
        asked = check_text(row.get("question"), f"{place}: the question")
        about = check_text(row.get("context"), f"{place}: the context")
        known = None
        if answers is not None:
            known = _answers(row.get("answers"), about, f"{place}: the answers")
            if not known and not no_answer:
                raise UsageError(
                    f"{place}: the question has no answer: if questions may have none, set "
                    "data.no_answer to true."
                )
        found.questions.append(asked)
        found.contexts.append(about)
        found.answers.append(known)
        found.ids.append(str(row.get("id") or ""))
    if not len(found):
        raise UsageError(f"{path} is empty: it has no questions.")
    return found


def _columns(
    path: Source, question: str, context: str, answers: str | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    columns = {"question": question, "context": context, "answers": answers}
    for line, row in read_rows(path):
        place = f"{path}:{line}"
        values = {
            field: value_of(row, column, field, place)
            for field, column in columns.items()
            if column is not None
        }
        yield place, {**values, "id": row.get("id")}


def _squad(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    articles = _list(read_json(path, dict[str, Any]).get("data"), f"{path}: data")
    for number, article in enumerate(articles):
        where = f"{path}: data[{number}].paragraphs"
        for index, paragraph in enumerate(_list(_get(article, "paragraphs"), where)):
            place = f"{where}[{index}]"
            context = _get(paragraph, "context")
            for which, asked in enumerate(_list(_get(paragraph, "qas"), f"{place}.qas")):
                answers = [] if _get(asked, "is_impossible") is True else _get(asked, "answers")
                yield (
                    f"{place}.qas[{which}]",
                    {
                        "question": _get(asked, "question"),
                        "context": context,
                        "answers": answers,
                        "id": _get(asked, "id"),
                    },
                )


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where} must be a list, got {shortened(value)}.")
    return list(value)


def _answers(value: Any, context: str, where: str) -> tuple[Answer, ...]:
    if isinstance(value, dict):
        texts, starts = (_list(value.get(key), where) for key in ("text", "answer_start"))
        if len(texts) != len(starts):
            raise UsageError(f"{where} have {len(texts)} texts and {len(starts)} places.")
        pairs = list(zip(texts, starts, strict=True))
    else:
        pairs = [(_get(one, "text"), _get(one, "answer_start")) for one in _list(value, where)]
    found = []
    for text, start in pairs:
        text = check_text(text, f"{where}: a text")
        is_place = isinstance(start, int) and not isinstance(start, bool) and start >= 0
        if not is_place or context[start : start + len(text)] != text:
            raise UsageError(
                f"{where}: {shortened(text)} does not stand at answer_start {shortened(start)} of "
                "the context."
            )
        found.append(Answer(text, start))
    return tuple(found)
