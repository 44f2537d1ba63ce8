"""Configuration of the documentation site; build it with ``make site``."""

import importlib
import inspect
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pygments.lexers import JsonLexer, TextLexer

import jaxbrewer

project = "jaxbrewer"
author = "The jaxbrewer developers"
copyright = author
release = jaxbrewer.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "sphinx_book_theme"
html_title = "jaxbrewer"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
exclude_patterns = ["_build", "jupyter_execute"]  # what a build leaves
root_doc = "index"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "force"  # of the notebooks; programs in pages run as tests
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
toc_object_entries_show_parents = "hide"
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False

PUBLIC_MODULES = (
    "jaxbrewer",
    "jaxbrewer.losses",
    "jaxbrewer.models",
    "jaxbrewer.generation",
    "jaxbrewer.text",
    "jaxbrewer.text.tasks",
    "jaxbrewer.export",
    "jaxbrewer.cache",
    "jaxbrewer.testing",
)
"""Modules whose public names have a page each in the reference."""


def write_reference(folder: Path) -> None:
    """Writes a page per public module; an object that several offer is documented by the first."""
    folder.mkdir(exist_ok=True)
    documented: set[int] = set()
    for module in PUBLIC_MODULES:
        names = [
            name for name in public_names(module) if id(value_of(module, name)) not in documented
        ]
        documented |= {id(value_of(module, name)) for name in names}
        (folder / f"{module}.md").write_text(reference_page(module, names))


def public_names(module: str) -> list[str]:
    """The names that a module offers, without its submodules and what it imports from others."""
    found = importlib.import_module(module)
    listed = getattr(found, "__all__", None)
    if listed is None:
        own = (name for name in vars(found) if not name.startswith("_"))
        listed = [name for name in own if _is_from(value_of(module, name), module)]
    is_data = {"__version__"}
    return [
        name
        for name in listed
        if name not in is_data and not inspect.ismodule(value_of(module, name))
    ]


def value_of(module: str, name: str) -> Any:
    """What a module calls ``name``."""
    return getattr(importlib.import_module(module), name)


def _is_from(value: Any, module: str) -> bool:
    """Whether a value is made in a module or below it; constants are."""
    origin = getattr(value, "__module__", module)
    return origin == module or str(origin).startswith(f"{module}.")


def reference_page(module: str, names: Sequence[str]) -> str:
    """The page of a module: its docstring, then its names."""
    directives = []
    for name in names:
        value, path = value_of(module, name), f"{module}.{name}"
        if inspect.isclass(value) or callable(value):
            kind = "class" if inspect.isclass(value) else "function"
            directives.append(f".. auto{kind}:: {path}\n")
        else:
            items = ", ".join(f"``{item}``" for item in value) if _has_items(value) else repr(value)
            directives.append(f".. py:data:: {path}\n\n   {items}\n")
    listed = "\n".join(directives)
    about = inspect.getdoc(importlib.import_module(module)) or ""
    return f"# {module}\n\n{about}\n\n```{{eval-rst}}\n{listed}```\n"


def _has_items(value: Any) -> bool:
    return isinstance(value, Mapping | tuple | list)


def copy_notebooks(folder: Path) -> None:
    """Copies the notebooks of ``examples`` to where the site reads them."""
    folder.mkdir(exist_ok=True)
    for notebook in (folder.parents[1] / "examples" / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, folder)


def setup(app: Any) -> None:
    """Writes the reference before the build starts; gives lexers to the pages' formats of data."""
    copy_notebooks(Path(app.srcdir) / "notebooks")
    app.add_lexer("jsonl", JsonLexer)
    app.add_lexer("conll", TextLexer)
    write_reference(Path(app.srcdir) / "reference")
