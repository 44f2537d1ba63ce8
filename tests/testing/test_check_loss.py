"""``check_loss`` names the fault of each broken loss."""

import jax
import jax.numpy as jnp
import pytest

import jaxbrewer as jb
from jaxbrewer.losses import (
    Mean,
    as_loss,
    cos_loss,
    hid_mse_loss,
    kl_loss,
    masked_mean,
    mmd_loss,
    valid,
)
from jaxbrewer.testing import check_loss
from jaxbrewer.testing._properties import PROPERTIES
from tests.pages import page_block

CHEAP = [name for name in PROPERTIES if name not in ("transformations", "mask dtype")]


def l2(state_S, state_T, mask):
    return jnp.sum((valid(state_S, mask) - valid(state_T, mask)) ** 2, axis=-1)


@as_loss
def sound(state_S, state_T, mask=None):
    return masked_mean(l2(state_S, state_T, mask), mask)


@as_loss
def mask_multiplied(state_S, state_T, mask=None):
    gaps = jnp.sum((valid(state_S, None) - valid(state_T, None)) ** 2, axis=-1)
    mask = jnp.ones_like(gaps) if mask is None else mask.astype(gaps.dtype)
    return Mean(jnp.sum(gaps * mask), jnp.sum(mask))


@as_loss
def mean_of_means(state_S, state_T, mask=None):
    mean = sound.sum_and_count(state_S, state_T, mask).value()
    return Mean(mean, jnp.ones_like(mean))


@as_loss
def bfloat16_sum(state_S, state_T, mask=None):
    if state_S.dtype == jnp.bfloat16:
        return masked_mean(jnp.sum((state_S - state_T) ** 2, axis=-1), mask)
    return masked_mean(l2(state_S, state_T, mask), mask)


@as_loss
def half_stays_half(state_S, state_T, mask=None):
    total, count = masked_mean(l2(state_S, state_T, mask), mask)
    return Mean(total.astype(jnp.result_type(state_S)), count.astype(jnp.result_type(state_S)))


def empty_divides(state_S, state_T, mask=None):
    gaps = l2(state_S, state_T, mask)
    mask = jnp.ones_like(gaps) if mask is None else mask.astype(gaps.dtype)
    return jnp.sum(gaps) / jnp.sum(mask)


@as_loss
def divides_by_another_number_with_a_mask(state_S, state_T, mask=None):
    """Lesson A, F13."""
    gaps = (valid(state_S, mask) - valid(state_T, mask)) ** 2
    return masked_mean(gaps) if mask is None else masked_mean(jnp.sum(gaps, axis=-1), mask)


@as_loss
def distance(state_S, state_T, mask=None):
    """The gradient of a square root at 0."""
    return masked_mean(jnp.sqrt(l2(state_S, state_T, mask)), mask)


@as_loss
def steep_cosine(state_S, state_T, mask=None):
    def unit(x):
        return x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)

    cosine = jnp.sum(unit(valid(state_S, mask)) * unit(valid(state_T, mask)), -1)
    return masked_mean(1 - cosine, mask)


@as_loss
def later_examples_weigh_more(state_S, state_T, mask=None):
    weights = jnp.arange(1.0, 1 + len(state_S), dtype=jnp.float32)[:, None]
    return masked_mean(l2(state_S, state_T, mask) * weights, mask)


@as_loss
def length_counts(state_S, state_T, mask=None):
    gaps = l2(state_S, state_T, mask)
    return masked_mean(jnp.sum(gaps, axis=1) / gaps.shape[1], None)


@as_loss
def gradient_stopped(state_S, state_T, mask=None):
    gaps = valid(state_S, mask) - valid(state_T, mask)
    return masked_mean(jnp.sum(gaps * jax.lax.stop_gradient(gaps), axis=-1), mask)


@as_loss
def not_least_at_equality(state_S, state_T, mask=None):
    return masked_mean(l2(state_S, 0.5 * state_T, mask), mask)


def on_the_host(state_S, state_T, mask=None):
    return float(jnp.sum(l2(state_S, state_T, mask)))


BROKEN = [
    (mask_multiplied, {"padding content"}),
    (mean_of_means, {"micro-batches"}),
    (bfloat16_sum, {"half precision"}),
    (half_stays_half, {"half precision"}),
    (empty_divides, {"empty mask"}),
    (divides_by_another_number_with_a_mask, {"mask of ones"}),
    (distance, {"equality", "zero vectors", "large and equal numbers"}),
    (steep_cosine, {"zero vectors"}),
    (later_examples_weigh_more, {"order of examples", "micro-batches"}),
    (length_counts, {"padding length"}),
    (gradient_stopped, {"gradient"}),
    (not_least_at_equality, {"equality"}),
]


def broken_properties(loss, inputs, **claims):
    with pytest.raises(AssertionError) as caught:
        check_loss(loss, inputs, **claims)
    lines = str(caught.value).splitlines()
    properties = [line.strip().partition(":")[0] for line in lines[1:]]
    return {name for name in properties if name in PROPERTIES}


def test_scalars_are_checked_without_their_parts():
    with pytest.raises(AssertionError, match=r"not checked: micro-batches \(it returns a scalar"):
        check_loss(empty_divides, "hidden", only=["empty mask", "micro-batches"])


@pytest.mark.slow
def test_a_correct_users_loss_passes():
    report = check_loss(sound, "hidden")
    assert report.startswith("sound keeps 15 properties: gradient, equality, padding length, ")
    assert "not checked: temperature (it takes no temperature)" in report


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "expected"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_each_fault_is_named(loss, expected):
    assert broken_properties(loss, "hidden", only=CHEAP) == expected


def test_a_loss_that_leaves_the_device_is_reported():
    with pytest.raises(jax.errors.ConcretizationTypeError):
        check_loss(on_the_host, "hidden")


def attention_over_padding(scores_S, scores_T, mask=None):
    """Lesson B.8, 55: the softmax runs over padded keys too."""
    values = jnp.abs(jax.nn.softmax(scores_S * 0.01) - jax.nn.softmax(scores_T * 0.01))
    weights = jnp.ones(values.shape[:3]) if mask is None else mask[:, None, :] != 0
    return masked_mean(values.sum(-1), weights).value()


def test_a_softmax_over_padding_is_reported():
    broken = broken_properties(
        attention_over_padding, "attention", only=["padding length", "padding content"]
    )
    assert broken == {"padding length", "padding content"}


@as_loss
def temperature_along_the_length(logits_S, logits_T, temperature=1.0, mask=None):
    """TextBrewer's broadcast, right for a scalar."""
    tau = jnp.asarray(temperature)
    tau = tau if tau.ndim == 0 else jnp.resize(tau, logits_S.shape[1])[:, None]
    gaps = (valid(logits_S, mask) - valid(logits_T, mask)) / tau
    return masked_mean(gaps**2, mask)


def without_the_factor(logits_S, logits_T, temperature=1.0, mask=None):
    return kl_loss(logits_S, logits_T, temperature, mask) / temperature**2


@as_loss
def leaves_in_the_dark(logits_S, logits_T, temperature=1.0, mask=None):
    """inf - inf."""
    return masked_mean((valid(logits_S, mask) - valid(logits_T, mask)) ** 2, mask)


@pytest.mark.parametrize(
    ("loss", "claims", "expected"),
    [
        (temperature_along_the_length, {}, {"temperature", "ruled-out classes"}),
        (without_the_factor, {"temperature_power": 0}, {"temperature"}),
        (leaves_in_the_dark, {}, {"ruled-out classes"}),
    ],
)
def test_faults_of_losses_between_logits(loss, claims, expected):
    only = ["temperature", "ruled-out classes", "equality"]
    assert broken_properties(loss, "logits", only=only, **claims) == expected


@pytest.mark.slow
def test_claims_are_checked_too():
    assert broken_properties(cos_loss, "hidden", floor=0.5, only=["equality"]) == {"equality"}
    assert broken_properties(jb.losses.rkd_loss, "hidden", only=["micro-batches"]) == {
        "micro-batches"
    }
    report = check_loss(jb.losses.rkd_loss, "hidden", splits=False, only=["micro-batches"])
    assert report.endswith("not checked: micro-batches (splits=False)")


def test_the_report_gives_the_numbers():
    with pytest.raises(AssertionError, match="the loss at equality is 0 instead of 0.5"):
        check_loss(sound, "hidden", floor=0.5, only=["equality"])
    message = "split 1 \\+ 3 the loss is [0-9.]+ instead of [0-9.]+"
    with pytest.raises(AssertionError, match=message):
        check_loss(mean_of_means, "hidden", only=["micro-batches"])


def mean_loss(state_S, state_T, mask):  # docs/losses.md quotes it
    return abs((state_S - state_T) * mask[..., None]).sum() / mask.sum()


@pytest.mark.slow
def test_the_report_in_the_page_is_the_report():
    with pytest.raises(AssertionError) as error:
        check_loss(mean_loss, "hidden")
    assert str(error.value) == page_block("losses.md", "mean_loss breaks")


def test_a_loss_without_a_mask_or_with_the_teacher_in_the_objective():
    def no_mask(state_S, state_T):
        return jnp.mean((state_S - state_T) ** 2)

    report = check_loss(no_mask, "hidden", only=["teacher", "empty mask", "order of examples"])
    assert report.startswith("no_mask keeps 2 properties: order of examples, teacher")
    assert "not checked: empty mask (it takes no mask)" in report
    assert "being checked" not in jb.MATCH_LOSS_MAP


@pytest.mark.slow
def test_losses_of_unequal_widths_are_checked_in_an_objective_too():
    report = check_loss(mmd_loss, "pair", widths=(8, 12))
    assert report.startswith("mmd_loss keeps 14 properties: gradient, padding length, ")
    assert "not checked: equality (the widths differ)" in report


def test_a_loss_that_needs_equal_widths_refuses_unequal_ones():
    with pytest.raises(jb.UsageError, match="differ in width"):
        check_loss(hid_mse_loss, "hidden", widths=(8, 12), only=["teacher"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"inputs": "hiden"}, "inputs 'hiden' is unknown: did you mean 'hidden'"),
        ({"inputs": "hidden", "only": ["paddng length"]}, "did you mean 'padding length'"),
        ({"inputs": "logits", "widths": (5, 6)}, "widths are for 'hidden' and 'pair'"),
        ({"inputs": "hidden", "widths": (8, 0)}, "two positive integers"),
        ({"inputs": "hidden", "widths": 8}, "two positive integers"),
    ],
)
def test_unreadable_losses_are_refused(arguments, says):
    with pytest.raises(jb.UsageError, match=says):
        check_loss(sound, **arguments)
