"""Writes the recorded results of ``docs/results`` into the pages that show them.

    python tools/update_results.py           # rewrites README.md and docs/*.md
    python tools/update_results.py --check   # names what is out of date, and ends with status 1

A page marks where it shows numbers of ``docs/results/NAME.json``. A marker in a sentence has a
template between the name and the end of the comment, and does not begin its line:

    reaches <!-- results: demo {rows[1][accuracy]:.1%} -->77.9%<!-- end -->

A block has its template on lines of its own. A line with ``[]`` is repeated for each entry of that
list; a value that is null is shown as nothing:

    <!-- results: demo
    | model | accuracy |
    |---|--:|
    | {rows[][name]} | {rows[][accuracy]:.1%} |
    -->

    <!-- end -->

A block without a template is the table of ``rows``, with the names of their values as columns.
Fields follow ``str.format``.
"""

import argparse
import json
import re
import string
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"<!-- results: (\S+)(.*?)-->(.*?)<!-- end -->", re.DOTALL)


def pages() -> list[Path]:
    """The pages whose numbers are recorded."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def recorded(name: str) -> dict[str, Any]:
    """The content of ``docs/results/NAME.json``."""
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def updated(page: str, results=recorded) -> str:
    """The text of a page with its results as they are recorded."""

    def shown(match: re.Match[str]) -> str:
        name, template, old = match.groups()
        start = match[0][: len(match[0]) - len(old) - len("<!-- end -->")]
        try:
            data = results(name)
            if template.strip() and "\n" not in template:
                return f"{start}{filled(template.strip(), data)}<!-- end -->"
            block = filled(template.strip("\n ") or table_of(data["rows"]), data)
        except (LookupError, ValueError, OSError) as error:
            raise SystemExit(f"<!-- results: {name} -->: {error!r}") from error
        return f"{start}\n\n{block}\n\n<!-- end -->"

    return MARKER.sub(shown, page)


def filled(template: str, data: dict[str, Any]) -> str:
    r"""A template with the values of a result.

    >>> data = {"rows": [{"name": "a", "score": 0.25}, {"name": "b", "score": 0.5}], "n": 1200}
    >>> print(filled("{n:,} texts\n{rows[][name]}: {rows[][score]:.1%}", data))
    1,200 texts
    a: 25.0%
    b: 50.0%
    """
    lines = []
    for line in template.splitlines():
        repeated = set(re.findall(r"\{([^{}]*?)\[\]", line))
        if not repeated:
            lines.append(_FORMATTER.vformat(line, (), data))
            continue
        if len(repeated) > 1:
            raise ValueError(f"a line repeats one list, not {sorted(repeated)}")
        count = len(_FORMATTER.get_field(*repeated, (), data)[0])
        for index in range(count):
            lines.append(_FORMATTER.vformat(line.replace("[]", f"[{index}]"), (), data))
    return "\n".join(lines)


def table_of(rows: list[dict[str, Any]]) -> str:
    """The template of a table of all values of ``rows``."""
    cells = [
        f"{{rows[][{name}]:.4g}}" if isinstance(value, float) else f"{{rows[][{name}]}}"
        for name, value in rows[0].items()
    ]
    head = ["" if name == "name" else name for name in rows[0]]
    rule = "|---|" + "--:|" * (len(head) - 1)
    return f"| {' | '.join(head)} |\n{rule}\n| {' | '.join(cells)} |"


class _Formatter(string.Formatter):
    """``str.format`` that shows ``None`` as nothing."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return "" if value is None else super().format_field(value, format_spec)


_FORMATTER = _Formatter()


def update(*, check: bool = False) -> list[str]:
    """Rewrites the pages whose records have changed, unless ``check``; returns their names."""
    stale = []
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = updated(old)
        if new != old:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new, encoding="utf-8")
    return stale


def main() -> None:
    """Rewrites the pages, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    check = parser.parse_args().check
    stale = update(check=check)
    print(*(f"{'out of date' if check else 'updated'}: {page}" for page in stale), sep="\n")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
