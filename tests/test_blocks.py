"""Every block of the pages is run by a test, and its output compared, or listed with the reason."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import shlex
import textwrap

import pytest
import yaml

import jaxbrewer
from jaxbrewer.cli.parser import make_parser
from tests.pages import PAGES, blocks, compared
from tests.test_documents import PROGRAMS

RUN = {
    "python": "test_documents.py, test_models_page.py, test_export_page.py",
    "jsonl": "cli/test_tasks_page.py",
    "conll": "cli/test_tasks_page.py",
    "json": "test_documents.py",
    "yaml": "cli/test_tasks_page.py; here, that every file is read",
    "{toctree}": "the site",
}
"""Kinds of blocks, and what runs them."""

NOT_RUN = {
    "a fragment: the text around it names what it needs": [
        ("adaptors.md", "def adaptor(batch, outputs):"),
        ("cache.md", "from jaxbrewer.cache import"),
        ("evaluation.md", 'Measure({"nats"'),
        ("language-models.md", "from "),
        ("reliability.md", "config = "),
        ("scaling.md", "TrainingConfig("),
    ],
    "needs several hosts": [("scaling.md", "import jax"), ("scaling.md", "# on every host")],
    "needs two GPUs": [("scaling.md", "$ jaxbrewer distill job.yaml --training.device cuda:0")],
    "needs PyTorch": [
        ("migration.md", "import numpy as np, torch"),
        ("export.md", "1.0000 0.3540"),
    ],
    "needs Node": [("export.md", "import { env")],
    "installs or downloads": [
        ("README.md", "pip install"),
        ("teachers.md", "pip install"),
        ("teachers.md", "python -c"),
        ("testing.md", "git clone"),
    ],
    "make's targets, which CI runs": [
        ("README.md", "make demo"),
        ("testing.md", "make test-fast"),
        ("benchmarks.md", "$ make bench"),
    ],
    "reads a model that is not here": [("benchmarks.md", "$ python benchmarks/loading.py")],
    "measures for minutes": [
        ("benchmarks.md", "$ python -m"),
        ("language-models.md", "python examples/language_model.py --model"),
    ],
    "trains on files of the reader and shows no output; arguments are parsed below": [
        ("command-line.md", "jaxbrewer "),
        ("evaluation.md", "jaxbrewer "),
        ("export.md", "jaxbrewer "),
    ],
}
"""Blocks by page and beginning."""


UNCOMPARED = {"reads a model that is not here", "needs PyTorch"}
"""Reasons for which a block may show output that no test compares."""


def shows_output(kind, text):
    """Whether lines of a block are printed by a command, or by the program above it."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("$ ")]
    return kind == "text" or (bool(commands) and len(commands) < len(lines))


@pytest.mark.parametrize("page", list(PAGES))
def test_every_block_is_run_or_listed(page):
    listed = {
        start: why for why, places in NOT_RUN.items() for name, start in places if name == page
    }
    asked = {start for name, start in compared() if name == page}
    unused = {*listed, *asked}
    for kind, text in blocks(page):
        found = {start for start in {*listed, *asked} if text.startswith(start)}
        unused -= found
        is_program = kind in RUN or (kind == "text" and page in PROGRAMS)
        assert is_program or found, f"{page}: run this block or list it:\n{text[:300]}"
        if shows_output(kind, text) and not is_program and not found & asked:
            assert all(listed[start] in UNCOMPARED for start in found), (
                f"{page}: compare what this block shows (tests.pages.page_block):\n{text[:300]}"
            )
    assert not unused, f"{page} has no block that begins with {unused}"


def keywords_of(function):
    """The names of arguments that a function or config takes; none where it takes any."""
    if dataclasses.is_dataclass(function):
        return {field.name for field in dataclasses.fields(function)}
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return None if takes_any else {parameter.name for parameter in parameters}


@pytest.mark.parametrize("page", [page for page in PAGES if "```py" in PAGES[page]])
def test_code_of_a_page_names_what_exists(page):
    """Also code that is no whole program: its imports, ``jb.NAME``, and arguments by keyword."""
    for kind, text in blocks(page):
        if kind not in ("py", "python"):
            continue
        known, tree = {}, list(ast.walk(ast.parse(textwrap.dedent(text))))
        for node in tree:
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jaxbrewer":
                module = importlib.import_module(node.module)
                known |= {alias.asname or alias.name: getattr(module, alias.name)
                          for alias in node.names}  # fmt: skip
        for node in tree:
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("jb", "jaxbrewer"):
                known[ast.unparse(node)] = getattr(jaxbrewer, node.attr)
            elif isinstance(node, ast.Name) and node.id in jaxbrewer.__all__:
                known[node.id] = getattr(jaxbrewer, node.id)
        for node in tree:
            function = known.get(ast.unparse(node.func)) if isinstance(node, ast.Call) else None
            names = keywords_of(function) if callable(function) else None
            if names is not None:
                given = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                assert given <= names, f"{page}: {ast.unparse(node.func)}: {given - names}"


def commands():
    """The lines of the pages that call ``jaxbrewer``."""
    for page in PAGES:
        for kind, text in blocks(page):
            if kind in ("python", "py", "text", "yaml"):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                found = re.search(r"^(?:\$ )?(?:[^'\"|]*'[^']*' \| )?jaxbrewer (?!error)(.*)", line)
                if found:
                    yield pytest.param(found[1], id=f"{page}: {found[1][:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_of_a_page_has_known_arguments(line):
    command, _, description = line.partition("   ")  # in the list of commands
    named = description.strip()[:1].isalpha()
    words = [command.split()[0], "--help"] if named else shlex.split(line, comments=True)
    errors = io.StringIO()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        make_parser().parse_known_args(words)
    assert not errors.getvalue(), errors.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml" in PAGES[page]])
def test_jobs_of_a_page_are_read(page):
    for kind, text in blocks(page):
        if kind == "yaml":
            sections = set(yaml.safe_load(text))
            assert sections <= {
                "data", "teacher", "teachers", "tasks", "student", "distillation", "optimization",
                "training", "study",
            }  # fmt: skip
