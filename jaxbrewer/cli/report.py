"""``jaxbrewer report``: one HTML page about runs and studies."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError, reason_of
from ..json_files import replace_file
from ..report.page import report_page
from ..report.records import find_records
from .output import format_bytes, print_line


def report(paths: Sequence[Path], output: Path, *, title: str | None = None) -> None:
    """Writes the page.

    Args:
        paths: Directories of runs and studies, or directories that hold some.
        output: The file.
        title: Its title; by default the names of the runs.

    Raises:
        UsageError: There is no run, a file is damaged, or the page cannot be written.
    """
    if os.path.isdir(output):
        raise UsageError(f"--output {output} is a directory: give a file, such as report.html.")
    runs, studies = find_records(paths)
    names = [*studies, *(run.name for run in runs)]
    title = title or ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    page = report_page(runs, studies, title=title).encode("utf-8", "replace")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {reason_of(error)}.") from None
    replace_file(output, page)
    found = _counted(len(runs), "run", "runs"), _counted(len(studies), "study", "studies")
    print_line(f"{output}: {', '.join(filter(None, found))}, {format_bytes(len(page))}.")


def _counted(number: int, one: str, several: str) -> str:
    """A number of things; empty for none.

    Examples:
        >>> _counted(1, "study", "studies"), _counted(2, "run", "runs")
        ('1 study', '2 runs')
    """
    return "" if number == 0 else f"{number:,} {one if number == 1 else several}"
