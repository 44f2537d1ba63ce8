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
    print_line(f"{output}: {len(runs)} runs, {len(studies)} studies, {format_bytes(len(page))}.")
