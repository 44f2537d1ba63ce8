"""A cached teacher in a distiller: run once, fresh in every training, reshuffled."""

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from tests.toys import (
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    vector_data,
)

CONFIG = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)
TEACHER = (mlp, mlp_params(8, seed=1))
DATA = vector_data(24)
BATCHES = list(jb.ArrayLoader(DATA, 8, shuffle=False))
SGD = optax.sgd(0.1)


def distiller(config=None, distill=CONFIG, cls=jb.BasicDistiller, student=None):
    student = student or (mlp, mlp_params(3))
    return cls(config or quiet(), distill, TEACHER, student, logits_adaptor, logits_adaptor)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_a_cached_teacher_is_run_once_and_changes_nothing(cached):
    calls = []

    def counted(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return mlp(params, x)

    config = jb.DistillationConfig(temperature=2, is_caching_logits=cached)
    one = jb.GeneralDistiller(
        quiet(), config, (counted, TEACHER[1]), (mlp, mlp_params(3)), logits_adaptor, logits_adaptor
    )
    history = one.train(SGD, BATCHES[:1], num_epochs=4).history
    jax.effects_barrier()
    assert len(calls) == (1 if cached else 4)
    plain = jb.DistillationConfig(temperature=2)
    expected = distiller(distill=plain).train(SGD, BATCHES[:1], num_epochs=4).history
    np.testing.assert_allclose(history["total_loss"], expected["total_loss"], rtol=1e-6)


@pytest.mark.slow
def test_a_cache_is_fresh_in_every_training_and_reshuffled_in_every_epoch():
    """Lesson B.4, 17: a second training doubled the cache."""
    config = jb.DistillationConfig(is_caching_logits=True)
    one = distiller(distill=config)
    orders = []
    for _ in range(2):
        history = one.train(optax.sgd(0.0), BATCHES, num_epochs=3).history["total_loss"]
        assert len(history) == 9
        epochs = history.reshape(3, 3)
        assert np.ptp(np.sort(epochs, axis=1), axis=0).max() < 1e-6
        orders.append(epochs)
    assert len({tuple(np.argsort(epoch)) for epoch in orders[0]}) > 1
