"""The pages, their blocks, and how output that they show is compared with what is printed.

A block counts as compared if a test calls :func:`page_block` or :func:`page_output` with its page
and beginning as literals; ``tests/test_blocks.py`` requires it of every block that shows output.
"""

import ast
import re
from functools import cache
from pathlib import Path

from tools.update_results import pages

TESTS = Path(__file__).parent
PAGES = {
    page.name: re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL) for page in pages()
}
"""The text of each page, without comments."""

SHORTENED = re.compile(r"\.\.\.|step \d.*")
"""What stands for lines that a page leaves out, or that a terminal replaces."""


def blocks(page):
    """Kind and text of each block of a page."""
    return re.findall(r"^[ ]*```(\S*)\n(.*?)^[ ]*```", PAGES[page], re.DOTALL | re.MULTILINE)


def page_block(page, beginning):
    """The text of the first block of a page that begins so."""
    return next(text for _, text in blocks(page) if text.startswith(beginning)).rstrip("\n")


def page_output(page, beginning):
    """The lines that a page shows below the command with which a block begins."""
    command, *lines = page_block(page, beginning).splitlines()
    assert command.startswith("$ ")
    assert not command.endswith("\\")
    return lines


@cache
def compared():
    """Page and beginning of the blocks that tests ask for."""
    names = {"page_block", "page_output"}
    return {
        tuple(map(ast.literal_eval, call.args))
        for path in TESTS.rglob("test_*.py")
        if any(f"{name}(" in path.read_text() for name in names)
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names
    }


def form(line):
    """A line without its numbers, paths, sizes of tables and names of classes.

    Examples:
        >>> form("texts     600 labelled in glosses/train.tsv; 1,000 unlabelled in more.tsv")
        'texts # labelled in PATH; # unlabelled in PATH'
        >>> form("size               90.9 MB"), form("loss  0.7312 [0.7062, 0.7586]")
        ('size # B', 'loss # [#]')
    """
    line = re.sub(
        r"\bminilm\b|\bbert\.[\w.]+|[\w.-]*/[\w./-]*\w|\b\w+\.(tsv|jsonl)\b", "PATH", line
    )
    line = re.sub(r"^(classes +\d+: ).*", r"\1NAMES", line)
    line = re.sub(r"[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]\d+)?", "#", line)
    line = re.sub(r"#(, (#|\.\.\.))+", "#", line)
    line = re.sub(r"\b[kMG]?B\b", "B", line)
    return re.sub(r" +", " ", line).strip()


def require_form(lines, printed):
    """Raises if the lines that a page shows are not, in their order, among those printed."""
    printed, begin = [form(line) for line in "\n".join(printed).rstrip().splitlines()], 0
    parts = [[]]
    for line in lines:
        if SHORTENED.fullmatch(line):
            parts.append([])
        elif not line.startswith(("jaxbrewer: ", "Texts that were cut")):
            parts[-1].append(form(line))
    for part in filter(None, parts):
        places = [
            start
            for start in range(begin, len(printed) - len(part) + 1)
            if printed[start : start + len(part)] == part
        ]
        assert places, f"{part}\nis not in\n{printed[begin:]}"
        begin = places[0] + len(part)
    assert begin == len(printed)
