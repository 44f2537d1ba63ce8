"""The notebooks run in full, equal their sources and open in Colab."""

import re

import pytest

from tests.tiers import exhaustive_but
from tools.pair_notebooks import SOURCES, notebook_of

NAMES = {
    "quickstart", "textbrewer_tour", "own_loss", "own_model", "language_model", "mesh",
}  # fmt: skip


def test_the_notebooks_are_those_of_the_list():
    assert {source.stem for source in SOURCES} == NAMES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_equals_its_source(source):
    notebook = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert notebook == notebook_of(source), "python tools/pair_notebooks.py"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_and_installs_the_package_first(source):
    text = source.read_text(encoding="utf-8")
    (target,) = re.findall(r"\(https://colab\.research\.google\.com/github/(\S+)\)", text)
    assert target == f"jaxbrewer/jaxbrewer/blob/main/examples/notebooks/{source.stem}.ipynb"
    assert 0 < text.index("pip") < text.index("import jaxbrewer")


SHORTEST = [source for source in SOURCES if source.stem in ("quickstart", "mesh")]


@pytest.mark.slow
@pytest.mark.parametrize("source", exhaustive_but(SHORTEST, SOURCES), ids=lambda path: path.stem)
def test_a_notebook_runs(source, forks, tmp_path):
    done = forks.run(
        source,
        cwd=tmp_path,
        JAX_NUMPY_RANK_PROMOTION="allow",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
