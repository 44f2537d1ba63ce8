import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer.losses import Mean, add_means, as_loss, loss_dtype, masked_mean, valid


def test_counts_are_exact_where_half_precision_is_not():
    """bfloat16 counts 1001 as 1000."""
    mean = masked_mean(jnp.ones(1001, jnp.bfloat16), jnp.ones(1001, jnp.bfloat16))
    assert mean == (1001, 1001)
    assert mean.count.dtype == np.float32


def test_sums_and_counts_are_added_before_they_are_divided():
    parts = [Mean(jnp.float32(3), jnp.float32(1)), Mean(jnp.float32(3), jnp.float32(5))]
    assert add_means(*parts).value() == 1.0  # the mean of the means is 1.8
    assert add_means(parts[0]) == parts[0]


@pytest.mark.slow
def test_a_mask_that_broadcasts_counts_every_value():
    values = jnp.arange(24.0).reshape(2, 3, 4)
    assert masked_mean(values, jnp.array([1, 0])) == (66, 12)
    assert masked_mean(values, jnp.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])) == (12, 3)
    assert masked_mean(values, jnp.full((2, 3), 0.5)) == (138, 12)
    assert masked_mean(values) == (276, 24)


def test_the_mean_of_nothing_is_zero():
    assert masked_mean(jnp.zeros((0, 3))).value() == 0
    assert masked_mean(jnp.zeros((0, 3)), jnp.zeros((0, 3))).value() == 0


@pytest.mark.slow
def test_a_masked_nan_reaches_neither_value_nor_gradient():
    def total(x):
        return masked_mean(x**2, jnp.array([1, 0])).value()

    value, gradient = jax.value_and_grad(total)(jnp.array([2.0, jnp.inf]))
    assert value == 4
    np.testing.assert_array_equal(gradient[0], 4)
    assert jax.grad(lambda x: valid(x, jnp.array([1, 0])).sum())(jnp.array([1, jnp.nan]))[1] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, np.int32])
def test_losses_are_float32(dtype):
    assert loss_dtype(np.ones(1, dtype)) == np.float32
    assert valid(np.ones(1, dtype), None).dtype == np.float32
    with jax.enable_x64(True):
        assert loss_dtype(np.ones(1, dtype), np.ones(1, np.float64)) == np.float64


def test_bound_parameters_reach_the_loss():
    """A table row with parameters is a partial function, which is a loss too."""

    def scaled(student, teacher, scale, mask=None):
        return masked_mean(scale * (student - teacher), mask)

    loss = as_loss(functools.partial(scaled, scale=3.0))
    assert loss(jnp.ones(2), jnp.zeros(2)) == 3
    assert loss.sum_and_count(jnp.ones(2), jnp.zeros(2)) == (6, 2)


def test_decorated_losses_keep_name_and_documentation():
    def l1_loss(student, teacher):
        """The distance."""
        return masked_mean(jnp.abs(student - teacher))

    assert (as_loss(l1_loss).__name__, as_loss(l1_loss).__doc__) == ("l1_loss", "The distance.")


def test_counts_below_one_divide_too():
    assert float(Mean(jnp.float32(0.25), jnp.float32(0.5)).value()) == 0.5
