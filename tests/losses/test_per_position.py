"""Losses per position: the values whose mean each loss between logits is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError, losses
from jaxbrewer.registry import KD_LOSS_MAP

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
LABELS = RNG.integers(0, 5, (3, 4))
PER_POSITION = {
    "ce": losses.cross_entropy,
    "mse": losses.squared_error,
    "kl": losses.kl_divergence,
    "reverse_kl": losses.reverse_kl_divergence,
    "jsd": losses.jensen_shannon_divergence,
    "skew_kl": losses.skew_kl_divergence,
    "skew_reverse_kl": losses.skew_reverse_kl_divergence,
    "tvd": losses.total_variation,
    "bce": losses.binary_cross_entropy,
    "dkd": losses.decoupled_kl_divergence,
    "standardized_kl": losses.standardized_kl_divergence,
}
ALL = pytest.mark.parametrize("name", PER_POSITION)


def test_every_loss_between_logits_has_a_form_per_position():
    assert PER_POSITION.keys() == KD_LOSS_MAP.keys()


def labels_of(name):
    return {"labels": LABELS} if KD_LOSS_MAP.row(name).labels else {}


@ALL
@pytest.mark.parametrize("temperature", [1, np.array([1, 2, 3], np.float32)], ids=["one", "each"])
def test_the_loss_is_the_mean_of_its_values(name, temperature):
    values = PER_POSITION[name](STUDENT, TEACHER, temperature, where=MASK, **labels_of(name))
    assert values.shape == (3, 4)
    expected = KD_LOSS_MAP[name](STUDENT, TEACHER, temperature, MASK, **labels_of(name))
    # A mean over classes and positions at once is rounded once, the others bit for bit.
    rtol = 1e-6 if name in ("mse", "bce") else 0
    np.testing.assert_allclose(np.asarray(losses.masked_mean(values, MASK).value()), expected, rtol)


@pytest.mark.slow
@ALL
def test_unread_values_reach_no_gradient(name):
    hidden = np.where(MASK[..., None] != 0, STUDENT, np.nan)

    def total(logits):
        values = PER_POSITION[name](logits, TEACHER, where=MASK, **labels_of(name))
        return jnp.sum(values, where=MASK != 0)

    np.testing.assert_array_equal(jax.grad(total)(hidden), jax.grad(total)(STUDENT))
    values = PER_POSITION[name](hidden, TEACHER, where=MASK, **labels_of(name))
    assert np.isfinite(values).all()


@ALL
def test_values_are_float32(name):
    halves = (x.astype(jnp.bfloat16) for x in (STUDENT, TEACHER))
    assert PER_POSITION[name](*halves, **labels_of(name)).dtype == np.float32


@ALL
@pytest.mark.parametrize("third", [MASK, MASK != 0, np.float32(MASK), 0, -1.0, np.nan, True])
def test_a_mask_or_0_in_the_place_of_the_temperature_is_refused(name, third):
    for loss in (PER_POSITION[name], KD_LOSS_MAP[name]):
        with pytest.raises(UsageError, match="third argument is the temperature") as caught:
            loss(STUDENT, TEACHER, third, **labels_of(name))
        assert "\n" not in str(caught.value)
    if np.asarray(third).dtype.kind == "b" and np.ndim(third):
        with pytest.raises(UsageError, match="third argument is the temperature"):
            jax.jit(KD_LOSS_MAP[name].sum_and_count)(STUDENT, TEACHER, third, **labels_of(name))
