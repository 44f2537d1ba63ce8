"""Losses as an objective calls them: by their rows, with one line for what they cannot compare."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.losses import Mean, as_loss, jsd_loss, masked_mean
from jaxbrewer.objective.loss_calls import as_sum_and_count
from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP

RNG = np.random.default_rng(0)


@pytest.fixture
def registered():
    def register(function, **facts):
        jb.register_new("match_loss", "own", function, **facts)
        return "own"

    yield register
    MATCH_LOSS_MAP.pop("own", None)


@as_loss
def gap(state_S, state_T, mask=None):
    return masked_mean((state_S - state_T) ** 2, mask)


def matched(name, width_S=3, width_T=5, **match):
    spec = {"layer_T": 0, "layer_S": 0, "weight": 1, "feature": "hidden", "loss": name, **match}
    objective = jb.make_objective(jb.DistillationConfig(intermediate_matches=[spec]))
    student, teacher = (
        jb.Outputs(features={"hidden": (jnp.ones((2, 4, width)),)}) for width in (width_S, width_T)
    )
    return objective(student, teacher, {})


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, r"own: student .* differ in width .3 and 5.: .*\"proj\": \[\"linear\", 3, 5\]"),
        ({"equal_widths": False}, r"The loss 'own' cannot compare student \(2, 4, 3\) and teacher "
                                  r"\(2, 4, 5\): .*\"proj\": \[\"linear\", 3, 5\]"),
    ],
)  # fmt: skip
def test_a_loss_on_widths_that_it_cannot_compare_is_named(registered, facts, says):
    with pytest.raises(jb.UsageError, match=rf"intermediate_matches\[0\].*: {says}") as caught:
        matched(registered(gap, **facts))
    assert "\n" not in str(caught.value)


def test_a_loss_may_compare_any_widths(registered):
    def norms(state_S, state_T, mask=None):
        return jnp.mean(
            (jnp.linalg.norm(state_S, axis=-1) - jnp.linalg.norm(state_T, axis=-1)) ** 2
        )

    value, _ = matched(registered(norms, equal_widths=False))
    assert value == pytest.approx((np.sqrt(5) - np.sqrt(3)) ** 2)


def test_widths_are_not_broadcast(registered):
    """A width of 1 would be compared with every width."""
    with pytest.raises(jb.UsageError, match="differ in width"):
        matched(registered(gap), width_S=1)


def test_the_facts_state_the_ranks_and_layers_of_a_loss(registered):
    name = registered(gap, ranks=(2,), layers=1)
    with pytest.raises(jb.UsageError, match="own compares states of 2 axes, but the student's"):
        matched(name, 3, 3)
    with pytest.raises(jb.UsageError, match="layer_T must be an int for the loss 'own'"):
        matched(name, layer_T=[0, 0], layer_S=[0, 0])


def test_errors_of_a_loss_on_equal_shapes_are_its_own(registered):
    def broken(state_S, state_T, mask=None):
        raise ValueError("a fault of the loss")

    with pytest.raises(ValueError, match="^a fault of the loss"):
        matched(registered(broken), 3, 3)


@pytest.mark.slow
def test_a_partial_loss_keeps_its_sums_and_counts():
    jb.register_new("kd_loss", "own", functools.partial(jsd_loss, beta=0.2))
    try:
        own, packaged = (
            as_sum_and_count(KD_LOSS_MAP, spec) for spec in ("own", {"loss": "jsd", "beta": 0.2})
        )
    finally:
        del KD_LOSS_MAP["own"]
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    actual, expected = (loss(*logits, 1, mask=None) for loss in (own, packaged))
    assert isinstance(actual, Mean)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
@pytest.mark.parametrize("name", ["ce", "kl", "dkd", "mse", "bce"])
def test_logits_need_the_classes_that_a_loss_compares(name, shape):
    logits = jb.Outputs(logits=(jnp.ones(shape),), labels=(jnp.zeros(8, int),))
    objective = jb.make_objective(jb.DistillationConfig(kd_loss_type=name))
    if shape == (8, 1) and name in ("mse", "bce"):
        assert np.isfinite(objective(logits, logits, {})[0])
        return
    with pytest.raises(jb.UsageError, match="logits.*'mse' or 'bce'") as caught:
        objective(logits, logits, {})
    assert "\n" not in str(caught.value)


def test_weights_per_example_need_a_loss_per_example():
    jb.register_new("kd_loss", "own", KD_LOSS_MAP["kl"], splits=False)
    try:
        objective = jb.make_objective(jb.DistillationConfig(kd_loss_type="own"))
    finally:
        del KD_LOSS_MAP["own"]
    outputs = jb.Outputs(logits=(jnp.ones((2, 3)),), logits_weights=(jnp.ones(2),))
    with pytest.raises(jb.UsageError, match="Weights per example .*splits=False"):
        objective(outputs, outputs, {})
