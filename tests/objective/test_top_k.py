"""The loss on a teacher's largest logits, against that on all of them in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.losses import kd_ce_loss
from jaxbrewer.objective.top_k import (
    keep_top_k,
    log_tail_at,
    require_kept_logits_suffice,
    to_buckets,
)

CLASSES, K = 40, 6
TEMPERATURES = (1.0, 4.0)


def logits(seed, scale=3.0, rows=12):
    return scale * np.random.default_rng(seed).normal(size=(rows, CLASSES))


@pytest.fixture(scope="module")
def bucket_loss():
    """KL over the kept classes and the rest, summed over rows, with its gradient, in float64."""

    @jax.jit
    @jax.value_and_grad
    def loss(student, teacher, tau):
        log_q, log_p = (
            jax.nn.log_softmax(x / tau)
            for x in to_buckets(student, keep_top_k(teacher, K, TEMPERATURES), tau)
        )
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

    def call(*arguments):
        with jax.enable_x64(True):
            value, gradient = loss(*map(jnp.float64, arguments))
            return float(value), np.asarray(gradient)

    return call


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_the_gap_to_the_full_loss_is_the_divergence_of_the_rest(bucket_loss, tau):
    student, teacher = logits(0), logits(1)
    log_q, log_p = (log_softmax(x / tau, axis=-1) for x in (student, teacher))
    full = np.sum(np.exp(log_p) * (log_p - log_q))
    rest = np.ones_like(teacher, bool)
    np.put_along_axis(rest, np.argsort(-teacher, axis=-1)[:, :K], False, axis=-1)
    q, p = np.exp(log_q) * rest, np.exp(log_p) * rest
    mass = p.sum(-1, keepdims=True)
    inner_q, inner_p = q / q.sum(-1, keepdims=True), p / mass
    ratio = np.divide(inner_p, inner_q, where=rest, out=np.ones_like(q))
    inner = np.sum(inner_p * np.log(ratio), -1)

    value, gradient = bucket_loss(student, teacher, tau)
    np.testing.assert_allclose(full - value, np.sum(mass[:, 0] * inner), rtol=1e-9)
    assert full - value >= 0

    exact = (np.exp(log_q) - np.exp(log_p)) / tau
    np.testing.assert_allclose(gradient - exact, mass * (inner_p - inner_q) / tau, atol=1e-12)
    np.testing.assert_allclose(gradient[~rest], exact[~rest], atol=1e-12)
    assert np.all(np.abs(gradient - exact).sum(-1) <= 2 * mass[:, 0] / tau + 1e-12)


@pytest.mark.slow
def test_all_classes_kept_is_the_full_loss():
    student, teacher = (jnp.float32(logits(seed)) for seed in (0, 1))
    buckets = to_buckets(student, keep_top_k(teacher, CLASSES), 2.0)
    full = kd_ce_loss(student, teacher, 2.0)
    np.testing.assert_allclose(kd_ce_loss(*buckets, 2.0), full, rtol=1e-6)


@pytest.mark.slow
def test_student_mass_outside_the_top_k_is_penalised():
    """Lesson F5: renormalised over the kept classes on both sides, this student has no loss."""
    p = np.full(CLASSES, 0.0007)
    p[:2] = 0.6, 0.4 - 0.0007 * (CLASSES - 2)
    student = np.log(np.where(np.arange(CLASSES) == 9, 0.9999, 1e-4 / CLASSES))
    student[:2] = np.log(1e-5 * p[:2])
    kept = keep_top_k(jnp.log(p)[None], 2)
    config = jb.DistillationConfig(temperature=1)
    loss, gradient = jax.jit(
        jax.value_and_grad(
            lambda logits: jb.make_objective(config)(
                jb.Outputs(logits=(logits,)), jb.Outputs(logits=(kept,)), {}
            )[0]
        )
    )(jnp.float32(student)[None])
    full = -np.sum(p * log_softmax(student))
    assert 0.9 * full < loss < full
    assert gradient[0, 9] > 0.9


@pytest.mark.slow
def test_the_rest_is_exact_where_stored_and_bounded_between():
    teacher = logits(2)
    kept = keep_top_k(jnp.float32(teacher), K, TEMPERATURES)
    rest = np.sort(teacher, axis=-1)[:, : CLASSES - K]
    smallest = np.sort(teacher, axis=-1)[:, -K]
    for tau in (0.5, 0.8, 1.0, 1.3, 2.0, 3.0, 4.0, 5.0, 20.0, 1e4):
        exact, found = logsumexp(rest / tau, axis=-1), np.asarray(log_tail_at(kept, tau))
        assert np.all(found >= exact - 1e-4), tau
        if tau in TEMPERATURES:
            np.testing.assert_allclose(found, exact, rtol=1e-5)
        if tau < 1:  # it grows no faster with 1 / tau than the smallest logit kept says
            at_1 = logsumexp(rest, axis=-1)
            np.testing.assert_allclose(found, at_1 + (1 / tau - 1) * smallest, rtol=1e-4)
        if 1 < tau < 4:  # the chord is above a convex function by less than its tangents are below
            step = 1e-4
            slopes = [
                (logsumexp(rest * (s + step), axis=-1) - logsumexp(rest * s, axis=-1)) / step
                for s in (1 / 4, 1 - step)
            ]
            reach = (1 / tau - 1 / 4) * (1 - 1 / tau) / (1 - 1 / 4)
            assert np.all(found - exact <= reach * (slopes[1] - slopes[0]) + 1e-4)


@pytest.mark.slow
def test_padding_filled_with_nan_changes_nothing():
    student = np.float32(logits(0)).reshape(3, 4, CLASSES)
    kept = keep_top_k(jnp.float32(logits(1)).reshape(3, 4, CLASSES), K)
    mask = jnp.asarray(np.arange(12).reshape(3, 4) % 3 != 0)

    @jax.jit
    def loss(student, kept):
        return kd_ce_loss(*to_buckets(student, kept, 2.0, mask), 2.0, mask=mask)

    expected = jax.value_and_grad(loss)(jnp.asarray(student), kept)
    student[~np.asarray(mask)] = np.nan
    filled = jax.tree.map(
        lambda x: jnp.where(mask[..., None], x, jnp.nan) if x.dtype == jnp.float32 else x, kept
    )
    actual = jax.value_and_grad(loss)(jnp.asarray(student), filled)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
def test_kept_logits_are_paired_as_all_logits_are():
    rng = np.random.default_rng(2)
    student, teacher = (
        collect({"logits": np.float32(logits(seed)).reshape(3, 4, CLASSES),
                 "logits_mask": rng.permutation(np.arange(12) < 7).reshape(3, 4)}, "model")
        for seed in (0, 1)
    )  # fmt: skip
    objective = jb.make_objective(jb.DistillationConfig())
    kept = dataclasses.replace(teacher, logits=(keep_top_k(teacher.logits[0], CLASSES),))
    whole, each = (objective(student, one, {})[0] for one in (teacher, kept))
    np.testing.assert_allclose(each, whole, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1, 2, 4, 8, 1e6])
def test_ruled_out_classes_have_no_rest_mass(tau):
    teacher = np.where(np.arange(CLASSES) < K, logits(1), -np.inf)
    kept = keep_top_k(jnp.float32(teacher), K, TEMPERATURES)
    assert np.isneginf(log_tail_at(kept, tau)).all()


def test_the_loss_is_exact_at_stored_temperatures():
    kept = keep_top_k(jnp.float32(logits(1)), K, (1.0, 3.0, 4.0, 7.0))
    for index, tau in enumerate(kept.temperatures):
        np.testing.assert_array_equal(log_tail_at(kept, tau), kept.log_tail[..., index])


def test_an_infinite_temperature_counts_the_other_classes():
    for others in (CLASSES - K, 1):
        kept = keep_top_k(jnp.float32(logits(1)), CLASSES - others, TEMPERATURES)
        np.testing.assert_allclose(log_tail_at(kept, 1e6), np.log(others), rtol=1e-4, atol=1e-4)


def test_only_student_temperature_rules_accept_top_k_logits():
    def suffice(rule):
        require_kept_logits_suffice(jb.DistillationConfig(temperature_scheduler=rule))

    suffice(["cwsm", 1])
    with pytest.raises(jb.UsageError, match="temperature_scheduler='flsw' needs all of them"):
        suffice(["flsw", 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("tau", [2.0, 8.0, np.float32([1.5, 3.0, 9.0])])
def test_positions_are_independent_rows(tau):
    kept = keep_top_k(jnp.float32(logits(1)), K, TEMPERATURES)
    in_rows = keep_top_k(jnp.float32(logits(1)).reshape(3, 4, CLASSES), K, TEMPERATURES)
    flat = log_tail_at(kept, np.repeat(tau, 4) if np.ndim(tau) else tau)
    np.testing.assert_array_equal(log_tail_at(in_rows, tau), flat.reshape(3, 4))
    assert (in_rows.ndim, in_rows.shape) == (3, (3, 4, CLASSES))


@pytest.mark.slow
def test_a_temperature_per_position_applies_to_its_row():
    student, kept = jnp.float32(logits(0)), keep_top_k(jnp.float32(logits(1)), K, TEMPERATURES)
    taus = jnp.linspace(0.7, 6, len(student))
    each = to_buckets(student, kept, taus)
    for row in (0, 5, 11):
        one = to_buckets(student, kept, taus[row])
        np.testing.assert_allclose(each[0][row], one[0][row], rtol=1e-5)
        np.testing.assert_allclose(each[1][row], one[1][row], rtol=1e-5)
