"""Writes ``examples/notebooks/*.ipynb``, which Colab opens, from the sources beside them.

    python tools/pair_notebooks.py

The sources are jupytext files in the percent format: programs that one can read, run and compare.
Notebooks have no outputs; the documentation site runs them. Needs the extra ``notebooks``.
"""

import hashlib
from pathlib import Path

import jupytext
import nbformat

SOURCES = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.py"))


def notebook_of(source: Path) -> str:
    """The notebook of a source; cells are named by their place and content."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    for place, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{place} {cell.source}".encode()).hexdigest()[:8]
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Writes all notebooks."""
    for source in SOURCES:
        source.with_suffix(".ipynb").write_text(notebook_of(source), encoding="utf-8")


if __name__ == "__main__":
    main()
