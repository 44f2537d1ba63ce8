"""Samples of the tail give the gradient of ``ce`` and ``kl`` without bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.objective.sampled_tail import SampledTail, keep_sampled, seeds_of_positions
from jaxbrewer.objective.top_k import keep_top_k

RNG = np.random.default_rng(0)
CLASSES, K, SAMPLES = 12, 3, 4
LOGITS_T = jnp.asarray(2 * RNG.normal(size=CLASSES), jnp.float32)
LOGITS_S = jnp.asarray(RNG.normal(size=CLASSES), jnp.float32)


def estimates(positions, temperature=1.0, *, samples=SAMPLES, logits=LOGITS_T, seed=0):
    tiled = jnp.broadcast_to(logits, (positions, CLASSES))
    seeds = seeds_of_positions(jnp.arange(positions, dtype=jnp.uint32), (), seed)
    found = jax.jit(keep_sampled, static_argnums=(1, 2, 3))(tiled, K, samples, temperature, seeds)
    return found.estimate()


def loss(name, logits_S, logits_T, temperature=1.0):
    config = jb.DistillationConfig(kd_loss_type=name, temperature=temperature)
    objective = jb.make_objective(config)
    return objective(jb.Outputs(logits=logits_S), jb.Outputs(logits=(logits_T,)), {})[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "temperature"), [("ce", 1.0), ("kl", 2.0)])
def test_the_gradient_over_a_million_draws_is_the_exact_one(name, temperature):
    positions = 10**6 // SAMPLES

    def mean_loss(logits_S, logits_T):
        return loss(name, jnp.broadcast_to(logits_S, logits_T.shape), logits_T, temperature)

    kept = jax.tree.map(jnp.asarray, estimates(positions, temperature))
    gradient = jax.jit(jax.grad(mean_loss))(LOGITS_S, kept)
    exact = jax.jit(jax.grad(mean_loss))(LOGITS_S, LOGITS_T[None])
    tail = 1 - np.sort(jax.nn.softmax(LOGITS_T / temperature))[-K:].sum()
    scale = {"ce": 1 / temperature, "kl": temperature}[name]
    deviation = scale * tail / 2 / np.sqrt(SAMPLES * positions)  # of one class, at most
    np.testing.assert_allclose(gradient, exact, atol=5 * deviation)
    top_alone = jax.jit(jax.grad(mean_loss))(
        LOGITS_S, keep_top_k(LOGITS_T[None], K, (temperature,))
    )
    assert np.abs(top_alone - exact).max() > 50 * deviation


@pytest.mark.slow
def test_the_estimate_has_the_kept_classes_exactly_and_the_sum_one():
    kept = estimates(500)
    p = np.exp(kept.logits - jax.nn.logsumexp(LOGITS_T))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    largest = np.sort(np.argsort(LOGITS_T)[-K:])
    for row, values in zip(kept.indices, kept.logits, strict=True):
        exact = np.isin(row, largest)
        np.testing.assert_array_equal(values[exact], LOGITS_T[largest])
        named = row[row < CLASSES]
        assert (np.diff(named) > 0).all()
        assert (row[len(named) :] == CLASSES).all()
    assert kept.sampled
    assert np.isneginf(kept.log_tail).all()


@pytest.mark.slow
def test_strata_give_each_class_its_share_up_to_one_draw():
    counts = np.zeros(CLASSES)
    kept = estimates(200, samples=64)
    tail = np.exp(np.asarray(LOGITS_T, np.float64))
    tail[np.argsort(LOGITS_T)[-K:]] = 0
    share = tail / tail.sum()
    for row, values in zip(kept.indices, kept.logits, strict=True):
        found = np.zeros(CLASSES + 1)
        found[row] = np.exp(values)
        counts = found[:CLASSES] / tail.sum()
        inside = tail > 0
        assert (np.abs(counts - share)[inside] < 2 / 64 + 1e-6).all()


@pytest.mark.slow
def test_draws_depend_on_the_seed_and_the_position_alone():
    same = [estimates(50).indices for _ in range(2)]
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(same[0][:20], estimates(20).indices)
    assert (estimates(50, seed=1).indices != same[0]).any()
    assert (same[0] != same[0][0]).any()


@pytest.mark.slow
def test_a_tail_without_probability_is_left_empty():
    ruled_out = jnp.where(jnp.arange(CLASSES) < K, LOGITS_T, -jnp.inf)
    kept = estimates(5, logits=ruled_out)
    np.testing.assert_array_equal(kept.indices[:, :K], np.tile(np.arange(K), (5, 1)))
    assert (kept.indices[:, K:] == CLASSES).all()
    assert np.isfinite(loss("kl", jnp.zeros((5, CLASSES)), kept))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kd_loss_type": "reverse_kl"}, "kd_loss_type='reverse_kl' would have a bias; ce, kl do"),
        ({"temperature": 2.0}, "for the temperature 1.0, not 2.0"),
        (
            {"temperature_scheduler": ["cwsm", 1]},
            "temperature 1.0, not temperature_scheduler='cwsm'",
        ),
    ],
)
def test_losses_that_samples_would_bias_are_refused(settings, message):
    config = jb.DistillationConfig(**{"kd_loss_type": "kl", "temperature": 1.0, **settings})
    outputs = jb.Outputs(logits=(estimates(2),))
    with pytest.raises(jb.UsageError, match=message):
        jb.make_objective(config)(jb.Outputs(logits=jnp.zeros((2, CLASSES))), outputs, {})


def test_samples_may_repeat_and_are_counted():
    kept = keep_top_k(LOGITS_T, K)
    tail = [c for c in range(CLASSES) if c not in kept.indices.tolist()]
    samples = jnp.array([tail[0], tail[0], tail[0], tail[5]])
    found = SampledTail(kept, samples).estimate()
    weight = dict(zip(found.indices.tolist(), np.exp(found.logits - kept.log_tail), strict=True))
    assert weight[tail[0]] == pytest.approx(3 / 4)
    assert weight[tail[5]] == pytest.approx(1 / 4)
