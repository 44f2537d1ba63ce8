"""Which cases of a parametrized test ``make test`` runs: each kind, not each combination."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def exhaustive_but(kept: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases as parameters; ``make test`` leaves out those that are not ``kept``.

    A case that is a tuple gives the arguments of one call.
    """
    cases = list(cases)
    assert not set(kept) - set(cases), "kept, but no case"
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else [case]),
            marks=[] if case in kept else pytest.mark.exhaustive,
        )
        for case in cases
    ]
