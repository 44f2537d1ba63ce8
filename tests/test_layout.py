"""Data flows one way: a module imports only from those before it."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest

PACKAGE = Path(__file__).parent.parent / "jaxbrewer"
ORDER = [
    "_version", "errors", "json_files", "registry", "checksums", "configs", "losses", "data",
    "forward", "objective", "testing", "step", "cache", "devices", "run", "distillers", "models",
    "generation", "text", "study", "report", "export", "demo", "cli", "__main__",
]  # fmt: skip


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path):
    """Top-level parts of the package that a file imports."""
    relative = path.relative_to(PACKAGE)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = relative.parts[: len(relative.parts) - node.level]
        target = [*base, *(node.module.split(".") if node.module else [])]
        yield from [target[0]] if target else [alias.name for alias in node.names]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_a_module_imports_only_from_earlier_parts(path):
    own = ORDER.index(part_of(path))
    later = [name for name in imports_of(path) if ORDER.index(name) > own]
    assert not later


def test_every_public_name_is_importable_and_documented():
    import jaxbrewer as jb

    constants = {"__version__", "losses", "testing"}
    for name in jb.__all__:
        value = getattr(jb, name)
        if name not in constants and not name.isupper():
            assert value.__doc__, name


def test_configs_are_read_and_refused_without_loading_jax():
    code = (
        "import sys; from jaxbrewer import DistillationConfig; DistillationConfig(temperature=2)\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tests_lie_in_the_packages_tree():
    def folders(place):
        return {path.parent.name for path in place.glob("*/__init__.py")}

    crosscutting = {"golden", "lessons", "properties", "recovery"}
    tests = folders(PACKAGE.parent / "tests")
    assert tests - folders(PACKAGE) == crosscutting
    assert folders(PACKAGE) <= tests


def test_mutation_testing_names_modules_and_tests_that_exist():
    path = PACKAGE.parent / "tools" / "mutate.py"
    specification = importlib.util.spec_from_file_location("mutate", path)
    mutate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(mutate)
    for module, tests in mutate.TESTS.items():
        assert (PACKAGE.parent / module).exists(), module
        for test in tests:
            file, _, name = test.partition("::")
            text = (PACKAGE.parent / file).read_text()
            assert f"def {name.partition('[')[0]}(" in text or not name, test


def test_the_files_that_are_run_first_exist():
    assert all((PACKAGE.parent / "tests" / name).is_file() for name in conftest.LONGEST)
