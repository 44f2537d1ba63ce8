"""The lock file, the extras and the targets that CI runs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (ROOT / "requirements-dev.lock").read_text()
LOCKED = [Requirement(line) for line in re.findall(r"^[^\s#].*", LOCK, re.MULTILINE)]


def required(names):
    """The requirements of extras of the package, with those of the extras that they contain."""
    for name in names:
        for line in EXTRAS[name]:
            requirement = Requirement(line)
            if requirement.name == "jaxbrewer":
                yield from required(requirement.extras)
            else:
                yield requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_has_a_version_of_every_dependency(python):
    """`make lock` writes it anew."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    pinned = {}
    for locked in LOCKED:
        if locked.marker is None or locked.marker.evaluate(environment):
            (specifier,) = locked.specifier
            assert specifier.operator == "==", locked
            assert pinned.setdefault(canonicalize_name(locked.name), specifier.version)
    core = map(Requirement, PROJECT["dependencies"])
    for requirement in [*core, *required(["dev", "docs"])]:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_lock_names_no_place_of_packages():
    assert not re.search(r"://|^-|@", LOCK, re.MULTILINE)


def test_workflows_run_targets_that_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    workflows = (ROOT / ".github" / "workflows").glob("*.yml")
    runs = [
        word
        for path in workflows
        for line in re.findall(r"run: make (.*)", path.read_text())
        for word in line.split()
        if re.fullmatch("[a-z-]+", word)
    ]
    assert runs
    assert set(runs) <= set(targets)
