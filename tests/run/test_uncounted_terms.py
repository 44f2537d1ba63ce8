"""A term of the loss that counts nothing is reported."""

import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.objective.term_weights import TermWeight
from jaxbrewer.run.uncounted_terms import UncountedTerms
from tests.toys import cross_entropy, mlp, mlp_params, quiet, vector_data


def masked_adaptor(batch, outputs):
    is_label = batch["labels"] >= 0
    losses = cross_entropy(outputs, jnp.maximum(batch["labels"], 0))
    total = jnp.sum(jnp.where(is_label, losses, 0.0))
    return {"logits": outputs, "losses": jb.Mean(total, jnp.sum(is_label).astype(jnp.float32))}


def train(labels, **settings):
    distill = jb.DistillationConfig(**{"hard_label_weight": 1.0, **settings})
    distiller = jb.BasicDistiller(
        quiet(), distill, (mlp, mlp_params(8, seed=1)), (mlp, mlp_params(3)),
        masked_adaptor, masked_adaptor,
    )  # fmt: skip
    data = {**vector_data(16), "labels": labels}
    return distiller.train(optax.sgd(0.1), jb.ArrayLoader(data, 8, shuffle=False), num_epochs=2)


def test_a_training_whose_labels_are_all_masked_warns():
    with pytest.warns(UserWarning, match="hard_label_loss counted no position in any of its 4 st"):
        train(np.full(16, -100))


def test_a_batch_without_labels_and_a_weight_of_zero_are_silent():
    train(np.array([-100] * 8 + [1] * 8))
    train(np.full(16, -100), hard_label_weight=0.0)


def test_a_long_training_does_not_wait_for_its_end():
    terms = UncountedTerms({"up/kd_loss": TermWeight(0.0, last=TermWeight(1.0))})
    for _ in range(UncountedTerms.EARLY - 1):
        terms.see({"up/count_kd_loss": 0.0})
        terms.see({"down/count_kd_loss": 3.0})
    with pytest.warns(UserWarning, match="^up/kd_loss counted no position in any of its first 100"):
        terms.see({"up/count_kd_loss": 0.0})
    with warnings.catch_warnings(action="error"):
        terms.see({"up/count_kd_loss": 0.0})
        terms.end()
