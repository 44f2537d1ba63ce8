"""Every case of every family is claimed once: equal, or different on purpose and listed.

``CLAIMS`` of a case's module decides whether TextBrewer's
value or our own is compared.
"""

import collections
import importlib
import json
import re
from pathlib import Path

from . import FOLDER, Claim

MIGRATION = Path(__file__).parents[2] / "docs" / "migration.md"


def all_cases() -> dict[str, str]:
    """Names and families of all cases in the manifests; rows are numbered."""
    names = {}
    for path in sorted(FOLDER.glob("*.manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for case in manifest["cases"]:
            rows = case.get("rows")
            each = [case["name"]] if rows is None else [f"{case['name']}[{i}]" for i in range(rows)]
            names |= dict.fromkeys(each, manifest["family"])
    return names


def all_claims() -> list[tuple[str, Claim]]:
    modules = [
        importlib.import_module(f"{__package__}.{path.stem}")
        for path in sorted(FOLDER.glob("test_*.py"))
    ]
    return [claim for module in modules for claim in getattr(module, "CLAIMS", {}).items()]


def differing_table() -> str:
    """The differing cases as a Markdown table, one line per reason."""
    groups = collections.defaultdict(list)
    for name, claim in all_claims():
        if claim.kind == "differs":
            groups[claim.why].append(name)
    lines = ["| cases | what is different |", "|---|---|"]
    for why, names in groups.items():
        lines.append(f"| {'<br>'.join(_in_short(names))} | {why} |")
    return "\n".join(lines)


def _in_short(names: list[str]) -> list[str]:
    """One table entry for several rows: their numbers, or how many there are."""
    rows = collections.defaultdict(list)
    for name in names:
        table, *index = re.split(r"[\[\]]", name)
        rows[table] += [index[0]] if index else []
    return [
        f"`{table}`"
        if not indices
        else f"`{table}`, {len(indices)} rows"
        if len(indices) > 14
        else f"`{table}` {', '.join(indices)}"
        for table, indices in rows.items()
    ]


def test_every_case_is_claimed_once():
    cases = all_cases()
    claimed = collections.Counter(name for name, _ in all_claims())
    assert claimed.keys() == cases.keys()
    assert set(claimed.values()) == {1}
    assert collections.Counter(cases.values()) == {
        "checkpoints": 1020,
        "compute_loss": 28,
        "config": 38,
        "data_utils": 35,
        "display": 15,
        "fixed": 8,
        "losses": 53,
        "projections": 6,
        "schedulers": 12,
        "select_shift": 11,
        "trajectories": 19,
    }


def test_counts_of_equal_and_different_cases():
    kinds = collections.Counter(claim.kind for _, claim in all_claims())
    assert kinds == {"equal": 1020, "differs": 225}
    assert all(claim.why for _, claim in all_claims() if claim.kind != "equal")


def test_the_migration_page_lists_what_differs():
    page = MIGRATION.read_text(encoding="utf-8")
    kinds = [claim.kind for _, claim in all_claims()]
    assert f"{kinds.count('equal'):,} of {len(kinds):,} reference cases" in " ".join(page.split())
    assert differing_table() in page, (
        f"the table of {MIGRATION.name} should be\n{differing_table()}"
    )
