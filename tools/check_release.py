"""Checks that a release tag, the package's version, the changelog and the citation agree.

    python tools/check_release.py v0.1.0

Needs only the standard library. Exits with a message that names every disagreement.
"""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def disagreements(tag: str) -> list[str]:
    """The disagreements that prevent a release under this tag."""
    version = runpy.run_path(str(ROOT / "jaxbrewer" / "_version.py"))["__version__"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    checks = {
        f"the tag {tag} is not v{version}": tag == f"v{version}",
        f"CHANGELOG.md has no '## [{version}] - YYYY-MM-DD'": re.search(
            rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
        ),
        f"CITATION.cff has no 'version: {version}'": re.search(
            rf"^version: {re.escape(version)}$", citation, re.MULTILINE
        ),
    }
    return [problem for problem, holds in checks.items() if not holds]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/check_release.py TAG")
    sys.exit("; ".join(disagreements(sys.argv[1])) or 0)
