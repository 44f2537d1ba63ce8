"""Every point has a test, and every test a point."""

import re
from pathlib import Path

from . import NOT_HERE, WHERE

TESTS = Path(__file__).parent.parent
PEERS, OWN = 19, 64


def test_every_point_is_in_the_table():
    points = [*(f"F{n}" for n in range(1, PEERS + 1)), *(str(n) for n in range(1, OWN + 1))]
    assert list(WHERE) == points


def test_the_tests_exist():
    for point, where in WHERE.items():
        if where.startswith(NOT_HERE):
            continue
        file, name = where.split("::")
        assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE), point


def test_the_tests_of_this_folder_are_named_after_points():
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name == "test_table.py":
            continue
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
            assert re.match(r"test_(f\d+|b\d+|further)_", name), name
