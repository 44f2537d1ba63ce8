"""What JAX reads at its import, in tests and doctests: CPU, quick and cached compilation."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

gc.disable()  # until everything is collected
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = Path(__file__).parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

_QUICK = ["--xla_cpu_parallel_codegen_split_count=1"]
"""Flags with which XLA compiles a small program in a third of the time."""

if version("jax").startswith("0.10."):  # XLA ends the process if it does not know a flag
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")

if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    _given = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*_QUICK, *_given]))


def pytest_collection_finish():
    """Excludes what imports and collection made from garbage collection, which runs less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()
