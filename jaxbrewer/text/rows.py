"""Reads files with named columns, row by row; errors name the file and the line."""

import bz2
import contextlib
import csv
import dataclasses
import gzip
import io
import lzma
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from ..errors import UsageError, missing_extra, missing_file, reason_of, suggest
from ..json_files import parse_json, read_json

Row: TypeAlias = dict[str, Any]
NumberedRows: TypeAlias = Iterator[tuple[int, Row]]

_COMPRESSION: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_UNREADABLE = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
_DATASET_FILE, _SPLITS_FILE = "state.json", "dataset_dict.json"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows in memory, which tasks read like those of a file.

    Attributes:
        numbered: The rows and their numbers.
        name: Where they come from, for messages.
    """

    numbered: Sequence[tuple[int, Row]]
    name: str

    def __str__(self) -> str:
        return self.name


Source: TypeAlias = str | Path | Rows
"""Where rows come from: a file, a directory, or memory."""


class UnknownFormat(UsageError):
    """The suffix of a file is not that of a format with named columns."""


def read_rows(path: Source) -> NumberedRows:
    r"""Yields the rows of a file or a directory, each with its number.

    * JSONL (``.jsonl``), CSV and TSV, also compressed (``.csv.gz``, ``.tsv.xz``, ``.jsonl.bz2``).
      CSV and TSV files start with a line of column names. CSV fields may be quoted; in TSV files a
      quote is an ordinary character. In both, a field ``nan`` or ``NaN`` is a missing value.
      Columns without a name and blank lines are skipped.
    * Parquet (``.parquet``), with the extra ``jaxbrewer[parquet]``.
    * A directory that ``save_to_disk`` of Hugging Face ``datasets`` wrote, with the same extra.

    Args:
        path: The file; its suffix is its format. Or the directory, or rows in memory.

    Yields:
        ``(number, row)``: the line of a text file or the row of a table, from 1, and the values by
        column.

    Raises:
        UsageError: The path is missing, damaged or of another kind, or a line has too many or too
            few columns.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "animals.csv")
        ...     _ = path.write_text("text,label\nit barks,dog\n")
        ...     list(read_rows(path))
        [(2, {'text': 'it barks', 'label': 'dog'})]
    """
    if isinstance(path, Rows):
        yield from path.numbered
        return
    path = Path(path)
    suffix = path.suffix.lower()
    compressed = suffix in _COMPRESSION
    kind = Path(path.stem).suffix.lower() if compressed else suffix
    if os.path.isdir(path):
        read = _saved_dataset
    elif kind == ".parquet" and not compressed:
        read = _parquet
    elif kind in _TEXT_READERS:
        read = _text_file
    else:
        compressible = [f"{kind}{end}" for kind in _TEXT_READERS for end in _COMPRESSION]
        raise UnknownFormat(
            f"{path} has a format that cannot be read: "
            + suggest(kind, [*_TEXT_READERS, ".parquet", *compressible[3:6]])
        )
    if not os.path.exists(path):
        raise missing_file(path)
    try:
        yield from read(path)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: {error.reason}. Convert it, for example with "
            "`iconv -f latin1 -t utf-8`."
        ) from None
    except UsageError:
        raise
    except _UNREADABLE as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None


def _text_file(path: Path) -> NumberedRows:
    suffix = path.suffix.lower()
    compressed = suffix in _COMPRESSION
    kind = Path(path.stem).suffix.lower() if compressed else suffix
    with _COMPRESSION[suffix](path) if compressed else path.open("rb") as raw:
        # newline="" leaves line ends inside quoted fields to the csv module
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        yield from _TEXT_READERS[kind](lines, path)


def read_stream(stream: BinaryIO, name: str, *, text: str) -> NumberedRows:
    r"""Yields rows as they arrive: of JSONL, if the first line is an object, else of plain lines.

    Blank lines are skipped.

    Args:
        stream: The stream of bytes.
        name: Its name in messages.
        text: The column that a plain line is.

    Yields:
        The number of the line, from 1, and the row.

    Raises:
        UsageError: The stream cannot be read or is not UTF-8, or a line of JSONL is no object.

    Examples:
        >>> list(read_stream(io.BytesIO(b"it purrs\nit barks\n"), "standard input", text="text"))
        [(1, {'text': 'it purrs'}), (2, {'text': 'it barks'})]
    """
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig")
    try:
        numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        is_json = None
        for number, line in numbered:
            is_json = line.lstrip().startswith("{") if is_json is None else is_json
            yield (
                next(_json_lines([line], name, start=number))
                if is_json
                else (number, {text: line.rstrip("\r\n")})
            )
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text: {error.reason}.") from None
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {reason_of(error)}.") from None
    finally:
        lines.detach()


def _json_lines(lines: Iterable[str], path: str | Path, *, start: int = 1) -> NumberedRows:
    for number, line in enumerate(lines, start):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise UsageError(f"{path}:{number}: expected a JSON object, got {line.strip()[:40]!r}.")
        yield number, row


def _table(lines: Iterator[str], path: Path, **dialect: Any) -> NumberedRows:
    largest = csv.field_size_limit(2**31 - 1)  # the default, 131,072, is less than a long text
    rows = csv.reader(lines, strict=True, **dialect)
    try:
        header = next(filter(None, rows), [])
        named = [name for name in header if name]
        if len(set(named)) < len(named):
            raise UsageError(f"{path}:{rows.line_num}: two columns have the same name: {named}.")
        for row in filter(None, rows):
            if len(row) != len(header):
                raise UsageError(
                    f"{path}:{rows.line_num}: {len(row)} columns, but the first line has "
                    f"{len(header)}: {', '.join(header)[:200]}."
                )
            # a table has only text, so a missing value is the word
            cells = (math.nan if cell in ("nan", "NaN") else cell for cell in row)
            columns = zip(header, cells, strict=True)
            yield rows.line_num, {name: cell for name, cell in columns if name}
    except csv.Error as error:
        raise UsageError(f"{path}:{rows.line_num}: malformed line: {error}.") from error
    finally:
        csv.field_size_limit(largest)


def _csv(lines: Iterator[str], path: Path) -> NumberedRows:
    return _table(lines, path)


def _tsv(lines: Iterator[str], path: Path) -> NumberedRows:
    return _table(lines, path, delimiter="\t", quoting=csv.QUOTE_NONE)


_TEXT_READERS = {".jsonl": _json_lines, ".csv": _csv, ".tsv": _tsv}


def _parquet(path: Path) -> NumberedRows:
    with _arrow_errors(path):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _numbered(file.iter_batches())


def _saved_dataset(path: Path) -> NumberedRows:
    """The rows of a directory that ``datasets.Dataset.save_to_disk`` wrote."""
    if os.path.isfile(path / _SPLITS_FILE):
        splits = read_json(path / _SPLITS_FILE, dict[str, Any]).get("splits")
        splits = splits if isinstance(splits, list) else []
        named = " or ".join(str(path / str(split)) for split in splits[:4])
        raise UsageError(f"{path} holds several splits: give one, such as {named}.")
    if not os.path.isfile(path / _DATASET_FILE):
        raise UsageError(
            f"{path} is a directory without {_DATASET_FILE}: give a file, or a directory that "
            "save_to_disk of Hugging Face datasets wrote."
        )
    entries = read_json(path / _DATASET_FILE, dict[str, Any]).get("_data_files")
    with _arrow_errors(path):
        import pyarrow

        def batches() -> Iterator[Any]:
            for name in _data_files(entries, path / _DATASET_FILE):
                with pyarrow.memory_map(str(path / name)) as file:
                    yield from pyarrow.ipc.open_stream(file)

        yield from _numbered(batches())


def _data_files(entries: Any, source: Path) -> list[str]:
    """The names of the Arrow files, as ``state.json`` lists them."""
    entries = entries if isinstance(entries, list) else []
    names = [str(entry.get("filename")) for entry in entries if isinstance(entry, dict)]
    if not names or any(name != os.path.basename(name) for name in names):
        raise UsageError(f"{source} lists no data files of its own directory: {_DATA_FILES}.")
    return names


_DATA_FILES = '"_data_files" must be [{"filename": "data-00000-of-00001.arrow"}]'


def _numbered(batches: Iterable[Any]) -> NumberedRows:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row


@contextlib.contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    """Errors of Arrow, and of its absence, in one line."""
    try:
        import pyarrow
    except ImportError:
        raise missing_extra("parquet", "pyarrow") from None
    try:
        yield
    except pyarrow.ArrowException as error:
        reason = " ".join(reason_of(error).split())[:200]
        raise UsageError(f"{path} cannot be read: {reason}.") from None
