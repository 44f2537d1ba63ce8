"""Trainings for tests that interrupt them; each resumes the run that its directory holds.

``python -m tests.recovery.trainings KIND DIRECTORY`` runs one.
"""

import sys
from pathlib import Path

import optax

import jaxbrewer as jb
from tests.toys import (
    HIDDEN_MATCH,
    Encoder,
    hidden_adaptor,
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    text_data,
    vector_data,
)


def killed(directory, *, num_steps=24):
    """Dropout, batch statistics, groups across epochs, schedules, a projection, retention."""
    config = quiet(
        output_dir=directory / "run",
        log_dir=directory / "logs",
        resume=True,
        gradient_accumulation_steps=2,
        ckpt_steps=3,
        keep_last=2,
        keep_every=4,
        keep_best=1,
        best_metric="weight",
    )
    distill = jb.DistillationConfig(
        kd_loss_weight_scheduler="linear_decay",
        hard_label_weight_scheduler="linear_growth",
        intermediate_matches=[HIDDEN_MATCH],
    )
    distiller = jb.GeneralDistiller(
        config,
        distill,
        Encoder(8, 2, seed=1),
        Encoder(6, 2, dropout=0.3, norm=True),
        hidden_adaptor,
        hidden_adaptor,
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, num_steps)
    return distiller.train(
        optax.adamw(rate),
        jb.ArrayLoader(text_data(20), 4, seed=1),
        num_steps=num_steps,
        max_grad_norm=0.5,
        callback=lambda model, step: {"weight": float(model.head.kernel[...][0, 0])},
    )


def long(directory):
    """Longer than any test waits; SIGTERM ends it."""
    config = quiet(output_dir=directory / "run", resume=True, ckpt_steps=10**7)
    trainer = jb.BasicTrainer(config, (mlp, mlp_params(3)), logits_adaptor)
    loader = jb.ArrayLoader(vector_data(24), 8, seed=3)
    trainer.train(optax.adam(1e-2), loader, num_steps=10**7)


if __name__ == "__main__":
    {"killed": killed, "long": long}[sys.argv[1]](Path(sys.argv[2]))
