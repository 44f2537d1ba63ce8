"""One process of several, or a process alone: trains and writes the result.

    python -m tests.devices.one_of_many PORT PROCESSES INDEX DIRECTORY SETTINGS

Run by ``test_processes.py``.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax

import jaxbrewer as jb
from tests.toys import HIDDEN_MATCH, Encoder, hidden_adaptor, text_data

PORT, PROCESSES, INDEX = map(int, sys.argv[1:4])
DIRECTORY, SETTINGS = Path(sys.argv[4]), json.loads(sys.argv[5])
FAILING = SETTINGS.pop("failing", None)
called: list[tuple[int, float]] = []


def callback(model, step):
    batch = text_data(4)
    del batch["labels"]
    called.append((step, float(model(**batch)["logits"].sum())))


class Failing:
    """A loader whose third batch is an error in one of the processes."""

    def __init__(self, loader):
        self.loader, self.given = loader, 0

    def __iter__(self):
        for batch in self.loader:
            if INDEX == FAILING and self.given == 2:
                raise RuntimeError("this process fails")
            self.given += 1
            yield batch


def main():
    if PROCESSES > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{PORT}", PROCESSES, INDEX, heartbeat_timeout_seconds=10
        )
    config = jb.TrainingConfig(
        output_dir=DIRECTORY / "run", log_dir=DIRECTORY / "logs", ckpt_steps=2, **SETTINGS
    )
    match = {**HIDDEN_MATCH, "proj": ["linear", 32, 48]}
    distiller = jb.GeneralDistiller(
        config,
        jb.DistillationConfig(hard_label_weight=0.5, intermediate_matches=[match]),
        Encoder(48, 1, seed=1),
        Encoder(32, 1, norm=True),
        hidden_adaptor,
        hidden_adaptor,
    )
    loader = jb.ArrayLoader(text_data(28), 16, per_process=config.local_batches)
    loader = loader if FAILING is None else Failing(loader)
    optimizer = optax.sgd(0.1, momentum=0.9)
    student, history = distiller.train(optimizer, loader, num_steps=4, callback=callback)
    leaves = jax.tree_util.tree_leaves_with_path(jb.as_model(student).variables)
    weights = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(DIRECTORY / f"weights{INDEX}.npz", **weights)
    seen = {"called": called, "losses": history["total_loss"].tolist()}
    (DIRECTORY / f"seen{INDEX}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
