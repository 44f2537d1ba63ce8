"""Every block of code in the pages is run by a test, or listed here with the reason why not."""

import contextlib
import io
import re
import shlex

import pytest
import yaml

from jaxbrewer.cli.parser import make_parser
from tools.update_results import pages

PAGES = {
    page.name: re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL) for page in pages()
}

RUN = {
    "python": "test_documents.py, test_models_page.py, test_export_page.py",
    "text": "what the program above it prints, compared by the same tests",
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
    "needs PyTorch": [("migration.md", "import numpy as np, torch")],
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
    "measures for minutes": [
        ("benchmarks.md", "$ python"),
        ("language-models.md", "python examples/language_model.py --model"),
    ],
    "a message, of which a test of its own has the words": [
        ("adaptors.md", "kd_loss of logits[0]"),
        ("auto.md", "jaxbrewer: The teacher"),
        ("command-line.md", "The training stopped"),
        ("evaluation.md", "Above a confidence"),
        ("losses.md", "effective weights"),
        ("losses.md", "mean_loss breaks"),
        ("reliability.md", "output_dir"),
        ("tasks.md", "jaxbrewer: error"),
    ],
    "a tree of files": [("command-line.md", "runs/glosses/"), ("design.md", "jaxbrewer/")],
    "trains on files of the reader; arguments are parsed below, output is compared in cli": [
        ("command-line.md", "jaxbrewer "),
        ("command-line.md", "$ jaxbrewer "),
        ("evaluation.md", "jaxbrewer "),
        ("evaluation.md", "$ jaxbrewer "),
        ("evaluation.md", "$ echo 'a small wild cat' | jaxbrewer "),
        ("export.md", "jaxbrewer "),
        ("scaling.md", "$ jaxbrewer "),
    ],
}
"""Blocks by page and beginning."""


def blocks(page):
    """Kind and text of each block of a page."""
    return re.findall(r"^[ ]*```(\S*)\n(.*?)^[ ]*```", PAGES[page], re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", list(PAGES))
def test_every_block_is_run_or_listed(page):
    listed = [start for places in NOT_RUN.values() for name, start in places if name == page]
    unused = set(listed)
    for kind, text in blocks(page):
        matching = [start for start in listed if text.startswith(start)]
        unused -= set(matching)
        assert kind in RUN or matching, f"{page}: run this block or list it:\n{text}"
    assert not unused, f"{page} has no block that begins with {unused}"


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
