"""The results of runs: their scores, confusion and reliability, quality against cost."""

from collections.abc import Sequence

from .records import RunRecord


def results_section(runs: Sequence[RunRecord]) -> str:
    """Tables and charts of ``results.json``; empty without one."""
    return ""
