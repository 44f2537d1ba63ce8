import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.losses import kd_ce_loss, kd_mse_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(RNG.normal(size=(2, 4, 4, 5)))
CHECKED_BY = {kd_ce_loss: "cross_entropy", kd_mse_loss: "squared_error"}
KD_LOSSES = pytest.mark.parametrize("loss", [kd_ce_loss, kd_mse_loss], ids=lambda f: f.__name__)
INF = np.inf


def grads(loss, *arguments, **options):
    """Value and the gradients of student and teacher."""
    program = jax.jit(jax.value_and_grad(lambda s, t: loss(s, t, *arguments, **options), (0, 1)))
    return jax.device_get(program(STUDENT, TEACHER))


def test_ce_follows_the_formula():
    z_S, z_T = np.float64([STUDENT, TEACHER]) / 2.5
    p = np.exp(z_T) / np.exp(z_T).sum(-1, keepdims=True)
    log_q = z_S - np.log(np.exp(z_S).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        jax.jit(kd_ce_loss)(STUDENT, TEACHER, 2.5), -(p * log_q).sum(-1).mean(), rtol=1e-6
    )


def test_ce_has_no_squared_temperature():
    """As in TextBrewer: the gradient shrinks with the square of the temperature."""
    norms = [np.linalg.norm(grads(kd_ce_loss, tau)[1][0]) for tau in (50.0, 100.0)]
    assert norms[0] / norms[1] == pytest.approx(4, rel=0.1)
    ratio = grads(kd_mse_loss, 1.0)[0] / grads(kd_mse_loss, 4.0)[0]
    assert ratio == pytest.approx(16)


def test_the_least_ce_is_the_entropy_of_the_teacher():
    p = np.exp(TEACHER) / np.exp(TEACHER).sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1).mean()
    np.testing.assert_allclose(jax.jit(kd_ce_loss)(TEACHER, TEACHER), entropy, rtol=1e-5)


@KD_LOSSES
def test_a_class_that_both_rule_out_counts_as_equal(loss):
    """TextBrewer: 0 * -inf and inf - inf, so NaN."""

    def without(x, fill):
        return np.concatenate([x, np.full((4, 4, 1), fill, np.float32)], -1)

    program = jax.jit(jax.value_and_grad(lambda s, t: loss(s, t, 2.0), (0, 1)))
    expected = program(without(STUDENT, -1e4), without(TEACHER, -1e4))
    actual = program(without(STUDENT, -INF), without(TEACHER, -INF))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), actual, expected)


def test_a_class_that_the_teacher_rules_out_adds_nothing():
    """The teacher's probability is 0: the value stays finite, and the gradient lowers the logit."""
    teacher = np.where(np.arange(5) == 2, -INF, TEACHER)
    program = jax.jit(jax.value_and_grad(kd_ce_loss, (0, 1)))
    value, (grad_S, grad_T) = jax.device_get(program(STUDENT, teacher))
    assert np.isfinite(value)
    assert np.all(grad_S[..., 2] > 0)
    assert np.all(np.isfinite(grad_T))
    assert np.all(grad_T[..., 2] == 0)


def test_a_class_that_only_the_student_rules_out_is_an_infinite_loss():
    student = np.where(np.arange(5) == 2, -INF, STUDENT)
    value, gradient = jax.jit(jax.value_and_grad(kd_ce_loss))(student, TEACHER)
    assert value == INF
    assert np.all(np.isfinite(gradient))


@KD_LOSSES
def test_a_temperature_per_example_is_not_one_per_position(loss):
    """TextBrewer broadcasts it along the length, silently where that equals the batch size."""
    tau = np.float32([1, 2, 3, 4])
    expected = grads(loss, np.repeat(tau[:, None], 4, 1))
    jax.tree.map(np.testing.assert_array_equal, grads(loss, tau), expected)


@pytest.mark.slow
@KD_LOSSES
def test_the_temperature_at_padding_is_ignored(loss):
    mask = np.float32(RNG.random((4, 4)) < 0.7)
    expected = grads(loss, np.full((4, 4), 3, np.float32), mask)
    for fill in (np.nan, 0.0, INF):
        tau = np.where(mask != 0, 3, fill).astype(np.float32)
        close = functools.partial(np.testing.assert_allclose, rtol=2e-6)  # a constant is folded
        jax.tree.map(close, grads(loss, tau, mask), expected)


@KD_LOSSES
def test_masks_select_logits_and_do_not_weigh_them(loss):
    mask = np.float32([[1, 0.5, 0, 0]] * 4)
    expected = grads(loss, 1.0, mask != 0)
    jax.tree.map(np.testing.assert_array_equal, grads(loss, 1.0, mask), expected)


@KD_LOSSES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits_S": np.zeros((4, 4, 6))}, r"differ in classes \(6 and 5\): .*same classes"),
        ({"logits_S": np.zeros((4, 3, 5))}, r"differ in length \(3 and 4\): .*same positions"),
        ({"logits_S": np.zeros((3, 4, 5))}, r"differ in batch \(3 and 4\): .*same examples"),
        ({"logits_S": np.zeros((4, 5))}, "different numbers of axes"),
        ({"mask": np.ones(4)}, r"mask must have the shape \(4, 4\), got \(4,\)"),
        ({"temperature": np.ones((4, 4, 1))}, r"scalar or have the shape \(4,\) or \(4, 4\)"),
        ({"temperature": np.ones(1)}, r"temperature must be .* got \(1,\)"),
    ],
)
def test_logits_of_the_wrong_shape_are_refused(loss, change, message):
    arguments = {"logits_S": STUDENT, "logits_T": TEACHER} | change
    with pytest.raises(UsageError, match=f"^{CHECKED_BY[loss]}: .*{message}") as error:
        loss(**jax.tree.map(jnp.asarray, arguments))
    assert "\n" not in str(error.value)


@KD_LOSSES
def test_the_temperature_is_1_if_none_is_given(loss):
    s, t = np.float32([[1.0, 3.0]]), np.float32([[2.0, -1.0]])
    assert float(loss(s, t)) == float(loss(s, t, 1))
    assert float(loss(s, t)) != pytest.approx(float(loss(s, t, 2)))


@pytest.mark.parametrize("only", ["student", "teacher"])
def test_a_class_that_only_one_rules_out_is_infinitely_far_in_mse(only):
    finite, ruled_out = np.float32([[0.0, 1.0]]), np.float32([[0.0, -np.inf]])
    pair = (ruled_out, finite) if only == "student" else (finite, ruled_out)
    assert kd_mse_loss(*pair) == np.inf
