"""The recipes of ``docs/models.md`` run as one program, against stand-ins of the libraries."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "models.md").read_text()
STAND_INS = ROOT / "tests" / "stand_ins"


@pytest.mark.slow
def test_the_recipes_run_as_one_program(forks, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program = "\n".join([f"import sys; sys.path.insert(0, {str(STAND_INS)!r})", *blocks])
    (tmp_path / "recipes.py").write_text(program)
    done = forks.run("recipes.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_library_of_the_page_has_a_stand_in():
    imported = set(re.findall(r"^(?:import|from) (\w+)", PAGE, re.MULTILINE))
    installed = {"jax", "numpy", "optax", "flax", "jaxbrewer", "os"}
    present = {path.stem for path in STAND_INS.iterdir()} - {"__pycache__"}
    assert imported - installed == present
