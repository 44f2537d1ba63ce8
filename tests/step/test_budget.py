"""Compiled steps stay within the recorded budget: a guard that needs no clock.

XLA counts operations and memory before LLVM makes machine code. So the numbers are those of the
programs that users compile, however little LLVM optimizes.
"""

import jax
import pytest

from benchmarks import budget
from tests.tiers import exhaustive_but

BUDGETS = budget.budgets()


@pytest.mark.slow
@pytest.mark.skipif(BUDGETS is None, reason=f"no budget is recorded for jax {jax.__version__}")
@pytest.mark.parametrize("job", exhaustive_but(set(budget.JOBS) - {"bfloat16"}, budget.JOBS))
def test_a_step_stays_within_its_budget(job):
    rises = budget.compare(budget.measure(job), BUDGETS[job])
    remedy = "python -m benchmarks.budget --update records a rise that is meant"
    assert not rises, "\n".join([job, *rises, remedy])


def test_a_rise_is_reported_with_both_numbers_and_a_cause():
    numbers = dict.fromkeys(budget.TOLERANCES, 10.0)
    assert budget.compare(numbers, numbers) == []
    assert budget.compare({**numbers, "MB accessed": 10.9, "GFLOP": 5.0}, numbers) == []
    (line,) = budget.compare({**numbers, "GFLOP": 11.0}, numbers)
    assert line.startswith("GFLOP: 10 -> 11 (+10.0%): something is computed twice")
    (line,) = budget.compare({**numbers, "host transfers": 1}, {**numbers, "host transfers": 0})
    assert line.startswith("host transfers: 0 -> 1 (from none)")
