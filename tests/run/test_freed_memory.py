"""What a process frees it keeps, so that a later allocation of the same size clears no page."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from jaxbrewer.run.freed_memory import keep_freed_memory

keep_freed_memory()
faults = []
for _ in range(3):
    np.ones(20_000_000)  # 160 MB, above the largest threshold from which glibc maps by default
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[2] - faults[1])
assert "jax" not in sys.modules
"""


def faults_of_an_allocation(**variables):
    """Page faults of an allocation of a size that was allocated and freed before."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets glibc's allocator")
def test_freed_memory_stays_in_the_process_unless_the_user_chose_otherwise():
    assert faults_of_an_allocation() < 10
    assert faults_of_an_allocation(MALLOC_TRIM_THRESHOLD_="131072") > 50
    assert faults_of_an_allocation(JAX_PLATFORMS="cuda") > 50
