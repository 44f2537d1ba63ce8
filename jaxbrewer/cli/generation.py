"""``jaxbrewer generate``: continues prompts and answers conversations with a decoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, suggest
from ..models.model_directory import read_text_model
from ..text import Tokenizer
from ..text.chat import ChatTemplate, check_messages
from ..text.labels import check_text
from ..text.rows import read_rows
from .messages import report_wait
from .output import print_line

HEAD = "causal-language-modeling"
_ROWS = 16
"""Prompts that are continued together."""


def generate(
    path: Path,
    *,
    prompt: str | None,
    file: str | None,
    seed: int,
    sampling: Mapping[str, Any],
) -> None:
    """Prints what a model writes: the text after ``prompt``, or a line of JSON per row of a file.

    Args:
        path: A model directory.
        prompt: A prompt.
        file: A file with the column ``messages``, ``prompt`` or ``text``.
        seed: Seed of the draws.
        sampling: The fields of :class:`~jaxbrewer.generation.Sampling`.

    Raises:
        UsageError: Neither or both of prompt and file are given, the model is no decoder, or a row
            holds no prompt.
    """
    if (prompt is None) == (file is None):
        raise UsageError("Give either --prompt or --file.")
    source, tokenizer = read_text_model(path), Tokenizer(path)
    if not source.has_head(HEAD):
        raise UsageError(f"{path} has no {HEAD.replace('-', ' ')} head: it generates no text.")
    report_wait("reading the prompts")
    rows = [{"prompt": check_text(prompt, "--prompt")}] if file is None else _read(file)
    texts = _texts(rows, path)
    before, _ = tokenizer.around
    is_chat = "messages" in rows[0]
    prompts = [[*([] if is_chat else before), *own.ids.tolist()] for own in tokenizer.spans(texts)]

    report_wait("loading JAX and the model")
    from ..generation import Sampler, Sampling
    from ..models import load

    model: Any = load(path, HEAD)
    sampler = Sampler(model, Sampling(**sampling))
    for start in range(0, len(prompts), _ROWS):
        drawn = sampler(prompts[start : start + _ROWS], key=seed + start)
        for row, tokens in zip(rows[start : start + _ROWS], drawn.rows(), strict=True):
            text = tokenizer.decode(tokens)
            if file is None:
                for line in text.split("\n"):
                    print_line(line)
            else:
                print_line(json.dumps({**row, "completion": text}, ensure_ascii=False))


def _read(file: str) -> list[dict[str, Any]]:
    """The prompts of a file, all under one name."""
    rows: list[dict[str, Any]] = []
    for line, row in read_rows(file):
        where = f"{file}:{line}"
        name = next((key for key in ("messages", "prompt", "text") if key in row), None)
        if name is None:
            raise UsageError(f"{where}: no column 'prompt': {suggest('prompt', row)}")
        if rows and ("messages" in rows[0]) != (name == "messages"):
            raise UsageError(f"{where}: prompts and conversations are in one file.")
        if name == "messages":
            rows.append({"messages": check_messages(row[name], f"{where}: {name!r}")})
        else:
            rows.append({"prompt": check_text(row[name], f"{where}: the column {name!r}")})
    if not rows:
        raise UsageError(f"{file} is empty: it has no prompts.")
    return rows


def _texts(rows: list[dict[str, Any]], path: Path) -> list[str]:
    """The prompts as the model reads them."""
    if "messages" not in rows[0]:
        return [row["prompt"] for row in rows]
    template = ChatTemplate(path)
    return [template.render(row["messages"], add_generation_prompt=True) for row in rows]
