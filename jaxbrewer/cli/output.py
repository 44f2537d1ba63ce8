"""What commands print: tables with lines on a terminal, plain columns elsewhere."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import escaped
from .messages import is_quiet


def print_table(
    rows: Iterable[Sequence[Any]],
    header: Sequence[str] = (),
    *,
    title: str = "",
    numbers: Sequence[int] = (),
) -> None:
    """Prints a table to standard output.

    Args:
        rows: The cells; ``None`` is an empty cell.
        header: The names of the columns; without it the first cell of each row is its name.
        title: A line above the table.
        numbers: The columns to align at the right.
    """
    cells = [["" if cell is None else escaped(str(cell)) for cell in row] for row in rows]
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_lined(cells, header, title, numbers))
    else:
        print(_plain(cells, header, title, numbers))


def print_line(text: str) -> None:
    """Prints a line to standard output and flushes it."""
    print(escaped(text), flush=True)


def print_facts(rows: Iterable[Sequence[Any]], *, is_result: bool = False) -> None:
    """Prints what a command is about to do, unless it is quiet.

    Args:
        rows: Names and values.
        is_result: Whether the command does nothing else.
    """
    if is_result or not is_quiet():
        print_table(rows)


def print_checked(refusals: Iterable[str]) -> None:
    """Prints the end of a dry run.

    Args:
        refusals: Why the command is refused without ``--dry-run``; empty ones are left out.
    """
    print_line("All checks passed. Nothing was trained or written.")
    for refusal in filter(None, refusals):
        print_line(f"Without --dry-run the command is refused: {refusal}")


def print_note(text: str) -> None:
    """Prints a line about what happens, unless the command is quiet."""
    if not is_quiet():
        print_line(text)


def _lined(
    cells: list[list[str]], header: Sequence[str], title: str, numbers: Sequence[int]
) -> Table:
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        show_header=bool(header),
        box=box.SIMPLE_HEAD if header else None,
        padding=(0, 2, 0, 0),
    )
    for column in range(max(map(len, cells), default=0)):
        table.add_column(
            Text(header[column]) if header else "",
            justify="right" if column in numbers else "left",
            style="cyan" if column == 0 else "",
            overflow="fold",
            no_wrap=column == 0,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _plain(
    cells: list[list[str]], header: Sequence[str], title: str, numbers: Sequence[int]
) -> str:
    every = [list(header), *cells] if header else cells
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]
    return "\n".join([title, *lines] if title else lines)


def format_bytes(count: float) -> str:
    """A number of bytes in a readable unit.

    Examples:
        >>> format_bytes(960), format_bytes(90_900_000)
        ('960 B', '90.9 MB')
    """
    power = min(int(math.log10(max(count, 1))) // 3, 4)
    return f"{count / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
