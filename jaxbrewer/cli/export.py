"""``jaxbrewer export``: writes a model for another runtime, and compares the two."""

import itertools
import os
from pathlib import Path
from typing import Any

from ..errors import UsageError, suggest
from ..export.formats import MODEL_FILES, check_readable
from ..models.model_directory import read_text_model
from ..text import Tokenizer
from ..text.labels import check_text
from ..text.rows import read_rows
from ..text.tokenize import TOKENIZER_FILES
from .messages import report_wait
from .output import format_bytes, print_line, print_table

_MOST_TEXTS = 32
"""Texts of a file on which an export is compared, at most."""


def export(
    path: Path,
    format: str,
    *,
    output: Path | None = None,
    texts: str | None = None,
    column: str = "text",
    int8: bool = False,
    pooling: str | None = None,
    overwrite: bool = False,
    verify_only: bool = False,
) -> None:
    """Exports a model, or compares an earlier export with it.

    Args:
        path: The model directory.
        format: One of :data:`~jaxbrewer.export.formats.FORMAT_NAMES`.
        output: The directory of the export; by default ``<model>-<format>`` beside it.
        texts: A file of texts to compare on.
        column: Its column.
        int8: Quantize the weights.
        pooling: Export embeddings of whole texts.
        overwrite: Replace an earlier export.
        verify_only: Compare, and write nothing.

    Raises:
        UsageError: A file cannot be read or written, or the two differ.
    """
    source = read_text_model(path)
    if not verify_only:
        check_readable(format, source.model_type)
    tokenizer = _tokenizer(path)
    given = None if texts is None else _texts(texts, column)
    if output is None:
        output = path.resolve().with_name(f"{path.resolve().name}-{format}")
    if os.path.lexists(output) and not (overwrite or verify_only):
        raise UsageError(f"--output {output} exists: give another one, or --overwrite.")

    report_wait("loading JAX and the model")
    from .. import models
    from ..export import artifact, run_facts

    model = models.load(source.directory, _task(source))
    if verify_only:
        parity = artifact.verify_artifact(model, output, tokenizer=tokenizer, texts=given)
        facts: dict[str, Any] = parity.to_dict()
        written = artifact.read_metadata(output)
        format, int8 = written["format"], written["int8"]
    else:
        report_wait("exporting and comparing")
        facts = artifact.export(
            model,
            output,
            format,
            tokenizer=tokenizer,
            int8=int8,
            texts=given,
            pooling=pooling,
            overwrite=overwrite,
            run=run_facts(path),
        )["parity"]
    file = MODEL_FILES.get((format, int8))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print_table(
        [
            ("export", f"{format}, int8 weights" if int8 else format),
            ("directory", output),
            *([("file", file)] if file else []),
            ("size", format_bytes(size)),
            ("largest difference", f"{facts['max_abs_difference']:.2g}"),
            ("largest output", f"{facts['largest_output']:.3g}"),
            ("same prediction", f"{facts['same_argmax']:.2%}"),
            ("compared on", f"{facts['rows']} texts, {facts['tokens']:,} tokens: {_which(texts)}"),
        ]
    )
    if tokenizer is None:
        print_line("The model has no tokenizer: it was compared on random tokens.")


def _which(texts: str | None) -> str:
    """Which texts an export is compared on."""
    which = f"the first {_MOST_TEXTS} of {texts}" if texts else "built-in ones"
    return f"{which} in one batch, the first alone, and all joined to one of the longest length"


def _task(source: Any) -> str | None:
    """The task to load: that of the config, or the only head of the files."""
    from ..models.families import family_of
    from ..models.model_types import BARE

    family = family_of(source.model_type)
    named = family.head_for(source.model_type, source.fields.get("architectures"))
    if named is not None:
        return None
    return source.heads[0] if len(source.heads) == 1 else BARE


def _tokenizer(path: Path) -> Tokenizer | None:
    """The model's tokenizer; ``None`` if the directory has none."""
    has_one = any(os.path.isfile(path / name) for name in TOKENIZER_FILES[:2])
    return Tokenizer(path) if has_one else None


def _texts(path: str, column: str) -> list[str]:
    """The first texts of a file with named columns."""
    found = []
    for number, row in itertools.islice(read_rows(path), _MOST_TEXTS):
        if column not in row:
            raise UsageError(
                f"{path}:{number} has no column {column!r} (--text): {suggest(column, row)}"
            )
        found.append(check_text(row[column], f"{path}:{number}"))
    if not found:
        raise UsageError(f"{path} has no texts.")
    return found
