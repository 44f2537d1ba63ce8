"""One of several processes of a training: ``<port> <number> <of> <directory> <steps>``.

Run by ``test_devices.py``.
"""

import sys
from pathlib import Path

import jax
import optax

import jaxbrewer as jb
from tests.toys import Encoder, hidden_adaptor, quiet, text_data


def main():
    port, number, of, directory, updates = sys.argv[1:]
    if int(of) > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            num_processes=int(of),
            process_id=int(number),
            initialization_timeout=60,
            heartbeat_timeout_seconds=15,
        )
    config = quiet(
        output_dir=Path(directory) / "run",
        log_dir=Path(directory) / "logs",
        resume=True,
        ckpt_steps=4,
        keep_last=2,
    )
    trainer = jb.BasicTrainer(config, Encoder(8, 1, dropout=0.1), hidden_adaptor)
    loader = jb.ArrayLoader(text_data(24), 8, seed=2)
    trainer.train(optax.adam(1e-2), loader, num_steps=int(updates))


if __name__ == "__main__":
    main()
