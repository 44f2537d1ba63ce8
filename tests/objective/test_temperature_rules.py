"""Temperatures per position: formulas, bounds, padding, rules of a user's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.objective.temperature_rules import (
    cwsm_temperature,
    flsw_temperature,
    temperature_rule,
)
from jaxbrewer.registry import TEMPERATURE_SCHEDULER

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(RNG.normal(size=(2, 3, 4, 5)))
RULES = pytest.mark.parametrize("spec", [("flsw", 1, 2), ("cwsm", 2)], ids=lambda spec: spec[0])


def rule_with_mask(spec):
    return jax.jit(lambda s, t, mask: temperature_rule(spec)(s, t, 4.0, mask))


@pytest.mark.slow
@RULES
def test_the_mean_is_over_the_valid_positions(spec):
    """TextBrewer's mean counts padding; here the values at padding must not matter."""
    mask = np.int32([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    selected = temperature_rule(spec)(STUDENT[mask != 0], TEACHER[mask != 0], 4.0)
    np.testing.assert_allclose(np.mean(selected), 4.0, rtol=1e-6)
    for fill in (np.nan, np.inf, 7.0):
        padded = [np.where(mask[..., None], x, np.float32(fill)) for x in (STUDENT, TEACHER)]
        tau = np.asarray(rule_with_mask(spec)(*padded, mask))
        np.testing.assert_allclose(tau[mask != 0], selected, rtol=1e-6)
        assert np.all(np.isfinite(tau))


@RULES
def test_temperatures_carry_no_gradient(spec):
    def total(s, t):
        return jnp.sum(temperature_rule(spec)(s, t, 4.0))

    for gradient in jax.jit(jax.grad(total, (0, 1)))(STUDENT, TEACHER):
        assert not np.any(gradient)


@RULES
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_temperatures_are_float32(spec, dtype):
    tau = rule_with_mask(spec)(STUDENT.astype(dtype), TEACHER.astype(dtype), np.ones((3, 4)))
    assert (tau.dtype, tau.shape) == (np.float32, (3, 4))


@pytest.mark.slow
@RULES
def test_ruled_out_classes_keep_temperatures_finite(spec):
    s, t = (np.where(np.arange(5) == 2, -np.inf, x) for x in (STUDENT, TEACHER))
    left_out = [np.delete(x, 2, axis=-1) for x in (STUDENT, TEACHER)]
    expected = temperature_rule(spec)(*left_out, 4.0)
    np.testing.assert_allclose(temperature_rule(spec)(s, t, 4.0), expected, rtol=1e-5)


@RULES
@pytest.mark.parametrize("x", [0.0, 1e4])
def test_zero_and_large_logits_are_finite(spec, x):
    logits = x * np.sign(STUDENT)
    assert np.all(np.isfinite(temperature_rule(spec)(logits, logits, 4.0)))


def test_flsw_of_equal_large_logits_is_the_base_temperature():
    """TextBrewer: the cosine rounds above 1, and a negative number to the power 0.5 is NaN."""
    logits = np.float32(RNG.normal(size=(2000, 7)) * 1e4)
    tau = jax.jit(lambda z: flsw_temperature(1, 0.5)(z, z, 4.0))(logits)
    np.testing.assert_allclose(tau, 4.0, atol=1e-3)


def test_temperatures_stay_positive():
    """TextBrewer: cwsm with beta 10 around 1 gave -6.2; a negative one inverts the teacher."""
    logits = 9 * np.eye(5, dtype=np.float32)
    logits[0] = 0
    tau = cwsm_temperature(10)(logits, logits, 1.0)
    assert tau.min() == np.float32(0.01)
    assert cwsm_temperature(10, minimum=0.5)(logits, logits, 1.0).min() == 0.5
    assert flsw_temperature(100, 1, minimum=0.25)(STUDENT, TEACHER, 1.0).min() == 0.25


@pytest.mark.parametrize("spec", ["none", "constant", ["constant"]])
def test_the_constant_rule_is_the_base_temperature(spec):
    assert temperature_rule(spec)(STUDENT, TEACHER, 4.0) == 4.0


def test_a_users_temperature_rule_is_called():
    def rule(logits_S, logits_T, base_temperature, mask=None):
        return base_temperature + jnp.max(logits_S, axis=-1)

    ours = temperature_rule(rule)
    np.testing.assert_array_equal(ours(STUDENT, TEACHER, 4.0), 4 + STUDENT.max(-1))
    assert not np.any(jax.grad(lambda s: ours(s, TEACHER, 4.0).sum())(jnp.asarray(STUDENT)))


def test_a_registered_temperature_rule_is_used(monkeypatch):
    monkeypatch.setitem(
        TEMPERATURE_SCHEDULER, "twice", lambda by: lambda s, t, base, mask=None: by * base
    )
    assert temperature_rule(["twice", 2])(STUDENT, TEACHER, 4.0) == 8.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flsv", "temperature_scheduler 'flsv' is unknown: did you mean 'flsw'"),
        ("flsw", "'flsw': missing a required argument: 'beta'; it takes .beta, gamma, eps="),
        (["flsw", 1], "'flsw': missing a required argument: 'gamma'"),
        (["flsw", {"gamma": 1}], "'flsw': missing a required argument: 'beta'"),
        (["cwsm"], "'cwsm': missing a required argument: 'beta'"),
        (["cwsm", 1, 2, 3], "'cwsm': too many positional arguments"),
        (["cwsm", {"betta": 1}], "'cwsm' has no argument 'betta': did you mean 'beta'"),
        (["constant", 4], "'constant': too many positional arguments"),
        (["flsw", "1", 2], "'flsw': beta must be a finite number, got '1'"),
        (["cwsm", True], "'cwsm': beta must be a finite number, got True"),
        (["flsw", 1, -1], "'flsw': gamma must not be negative, got -1"),
        (["flsw", float("nan"), 1], "'flsw': beta must be a finite number, got nan"),
        (["flsw", {"beta": 1, "gamma": 1, "minimum": 0}], "minimum must be above 0, got 0"),
        (["cwsm", {"beta": 1, "minimum": -1}], "'cwsm': minimum must be above 0, got -1"),
        (lambda s, t: 1.0, "temperature_scheduler: too many positional arguments; it takes"),
    ],
)
def test_bad_temperature_rules_are_refused(spec, message):
    with pytest.raises(UsageError, match=message) as error:
        temperature_rule(spec)
    assert "\n" not in str(error.value)


def test_further_arguments_of_a_rule_are_refused():
    """TextBrewer ignores them; here a surplus argument must not silently set the minimum."""
    for spec in (["flsw", 1, 2, 1e-4, 5], ["cwsm", 1, 5]):
        with pytest.raises(UsageError, match="too many positional arguments"):
            temperature_rule(spec)
