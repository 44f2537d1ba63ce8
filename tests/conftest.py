"""Settings of all tests beside those of the root: no rank promotion, no time limits."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fork_server import ForkServer

os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

_COMPILED_QUICKLY = ("cli", "export", "generation", "models", "text")
"""Folders whose tests compile whole jobs and many models, which are then hardly run."""

LONGEST = (
    "test_documents.py", "text/tasks/test_matrix.py", "test_benchmarks.py", "cli/test_tasks.py",
    "cli/test_job.py", "devices/test_processes.py", "cli/test_validation.py", "step/test_budget.py",
    "cli/test_teachers.py", "losses/test_contract.py", "golden/test_trajectories.py",
    "demo/test_run.py", "cli/test_study.py", "models/test_families.py", "recovery/test_devices.py",
)  # fmt: skip
"""Files that take longest, longest first."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Runs the longest files first, so that all processes end at about the same time."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Lets XLA optimize little unless ``make test-all`` asks for what users compile."""
    import jax  # after its variables are set

    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    little = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1" or folder in _COMPILED_QUICKLY
    jax.config.update("jax_disable_most_optimizations", little)


@pytest.fixture(scope="session")
def forks():
    """Runs programs in processes of their own without importing JAX again."""
    server = ForkServer()
    yield server
    server.close()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("quiet", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "quiet")
