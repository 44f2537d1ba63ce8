"""Losses beyond TextBrewer's between logits, against the papers' sums in plain Python floats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError, losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(2 * RNG.normal(size=(2, 3, 4, 5)))
LABELS = np.array([[0, 1, 2, 3], [4, 0, -100, 1], [2, 2, 7, 3]], np.int32)
MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1]], np.int32)
TAU = np.float32([1.0, 2.5, 4.0])
INF = math.inf


def softmax(z, tau):
    powers = [math.exp(x / tau) for x in z]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mix(share, p, q):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def of_distributions(divergence, power=2):
    return lambda s, t, tau, label: tau**power * divergence(softmax(t, tau), softmax(s, tau))


def jsd(beta):
    def divergence(p, q):
        m = mix(beta, p, q)
        return beta * kl(p, m) + (1 - beta) * kl(q, m)

    return of_distributions(divergence)


def bce(s, t, tau, label):
    total = 0.0
    for a, b in zip(s, t, strict=True):
        q, p = (1 / (1 + math.exp(-x / tau)) for x in (a, b))
        total -= p * math.log(q) + (1 - p) * math.log(1 - q)
    return tau**2 * total / len(s)


def dkd(alpha, beta):
    def value(s, t, tau, label):
        q, p = softmax(s, tau), softmax(t, tau)
        target = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        others = [c for c in range(len(s)) if c != label]
        rest = kl(softmax([t[c] for c in others], tau), softmax([s[c] for c in others], tau))
        return tau**2 * (alpha * target + beta * rest)

    return value


def standardized(s, t, tau, label):
    def z_score(z):
        mean = sum(z) / len(z)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / len(z))
        return [(x - mean) / deviation for x in z]

    return tau**2 * kl(softmax(z_score(t), tau), softmax(z_score(s), tau))


CASES = {
    "kl": (losses.kl_loss, {}, of_distributions(kl)),
    "reverse_kl": (losses.reverse_kl_loss, {}, of_distributions(lambda p, q: kl(q, p))),
    "jsd": (losses.jsd_loss, {}, jsd(0.5)),
    "jsd 0.1": (losses.jsd_loss, {"beta": 0.1}, jsd(0.1)),
    "skew_kl": (
        losses.skew_kl_loss, {"alpha": 0.3}, of_distributions(lambda p, q: kl(p, mix(0.3, p, q))),
    ),
    "skew_reverse_kl": (
        losses.skew_reverse_kl_loss, {}, of_distributions(lambda p, q: kl(q, mix(0.1, q, p))),
    ),
    "tvd": (
        losses.tvd_loss, {},
        of_distributions(
            lambda p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2, power=1
        ),
    ),
    "bce": (losses.bce_loss, {}, bce),
    "dkd": (losses.dkd_loss, {"labels": LABELS}, dkd(1.0, 8.0)),
    "dkd 2 0.5": (losses.dkd_loss, {"labels": LABELS, "alpha": 2.0, "beta": 0.5}, dkd(2.0, 0.5)),
    "standardized_kl": (losses.standardized_kl_loss, {}, standardized),
}  # fmt: skip
ALL = pytest.mark.parametrize(("loss", "options", "formula"), CASES.values(), ids=CASES)


@pytest.mark.slow
@ALL
def test_values_follow_the_papers_formula(loss, options, formula):
    """With a mask and a temperature per example, in float32 and in float64."""
    values = [
        formula(STUDENT[b, i].tolist(), TEACHER[b, i].tolist(), float(TAU[b]), LABELS[b, i])
        for b in range(3)
        for i in range(4)
        if MASK[b, i] and ("labels" not in options or 0 <= LABELS[b, i] < 5)
    ]
    program = jax.jit(lambda s, t, tau: loss(s, t, tau, MASK, **options))
    expected = sum(values) / len(values)
    np.testing.assert_allclose(program(STUDENT, TEACHER, TAU), expected, rtol=3e-6)
    with jax.enable_x64(True):
        exact = program(*(jnp.asarray(x, jnp.float64) for x in (STUDENT, TEACHER, TAU)))
    np.testing.assert_allclose(exact, expected, rtol=1e-12)


@pytest.mark.slow
@ALL
def test_the_temperature_is_1_unless_it_is_given(loss, options, formula):
    np.testing.assert_array_equal(
        loss(STUDENT, TEACHER, **options), loss(STUDENT, TEACHER, 1, **options)
    )


@pytest.mark.slow
@ALL
def test_gradients_do_not_shrink_with_the_temperature(loss, options, formula):
    """Lesson B.8, 53: without the factor, raising T silently lowers the weight of distillation."""
    gradient = jax.jit(jax.grad(lambda s, tau: loss(s, TEACHER, tau, **options)))
    norms = [jnp.linalg.norm(gradient(STUDENT, tau)) for tau in (100.0, 200.0)]
    np.testing.assert_allclose(norms[0] / norms[1], 1, rtol=0.05)


def test_kl_is_the_cross_entropy_without_the_teachers_entropy():
    kl, cross_entropy = (
        jax.jit(jax.value_and_grad(lambda s, loss=loss: loss(s, TEACHER, 2.0)))
        for loss in (losses.kl_loss, losses.kd_ce_loss)
    )
    (value, gradient), (ce, ce_gradient) = kl(STUDENT), cross_entropy(STUDENT)
    entropy, _ = cross_entropy(TEACHER)
    np.testing.assert_allclose(value, 4 * (ce - entropy), rtol=1e-5)
    np.testing.assert_allclose(gradient, 4 * ce_gradient, rtol=1e-4, atol=1e-7)


def test_jsd_at_its_ends_is_kl_and_reverse_kl():
    """GKD, below equation 1: JSD / beta tends to the forward KL, JSD / (1 - beta) to the reverse.

    Lesson A, F14: with the shares of the mixture exchanged, both limits are wrong.
    """
    with jax.enable_x64(True):
        s, t = jnp.float64(STUDENT), jnp.float64(TEACHER)
        near_0, near_1, forward, reverse = jax.jit(lambda s, t: (
            losses.jsd_loss(s, t, beta=1e-6) / 1e-6,
            losses.jsd_loss(s, t, beta=1 - 1e-6) / 1e-6,
            losses.kl_loss(s, t),
            losses.reverse_kl_loss(s, t),
        ))(s, t)  # fmt: skip
        np.testing.assert_allclose(near_0, forward, rtol=1e-3)
        np.testing.assert_allclose(near_1, reverse, rtol=1e-3)


def test_kl_is_dkd_with_the_teachers_own_weight():
    """Zhao et al., equation 6: KL = TCKD + (1 - p_t) NCKD."""
    s, t, label = STUDENT[:1, 0], TEACHER[:1, 0], np.array([2])
    rest = 1 - softmax(t[0].tolist(), 1.0)[2]
    coupled = jax.jit(lambda s, t: losses.dkd_loss(s, t, labels=label, alpha=1.0, beta=rest))
    np.testing.assert_allclose(coupled(s, t), jax.jit(losses.kl_loss)(s, t), rtol=1e-5)


def test_standardised_logits_forget_their_scale():
    program = jax.jit(jax.value_and_grad(losses.standardized_kl_loss))
    expected, _ = program(STUDENT, TEACHER)
    actual, _ = program(3 * STUDENT + 5, TEACHER / 2 - 1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    ties = np.repeat(1e4 * STUDENT[..., :1], 5, axis=-1)  # the mean may be rounded
    value, gradient = program(ties, TEACHER)
    assert value > 0
    assert not np.any(gradient)


@pytest.mark.slow
@ALL
def test_a_class_that_both_rule_out_does_not_count(loss, options, formula):
    """As in padded vocabularies; bce counts the class as one on which both agree."""
    share = 5 / 6 if loss is losses.bce_loss else 1

    def without(x):
        return np.concatenate([x, np.full((3, 4, 1), -INF, np.float32)], -1)

    program = jax.jit(jax.value_and_grad(lambda s, t: loss(s, t, 2.0, **options)))
    value, gradient = program(without(STUDENT), without(TEACHER))
    expected, expected_gradient = program(STUDENT, TEACHER)
    np.testing.assert_allclose(value, share * expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[..., :5], share * expected_gradient, rtol=1e-4, atol=1e-7)
    assert not np.any(gradient[..., 5])


BOUNDED = [losses.jsd_loss, losses.skew_kl_loss, losses.skew_reverse_kl_loss, losses.tvd_loss]


@pytest.mark.parametrize("loss", BOUNDED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("who", ["student", "teacher", "each another"])
def test_bounded_losses_allow_any_class_to_be_ruled_out(loss, who):
    student = np.where((np.arange(5) == 1) & (who != "teacher"), -INF, STUDENT)
    teacher = np.where((np.arange(5) == 2) & (who != "student"), -INF, TEACHER)
    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(student, teacher)
    assert 0 < value < 3
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    nearly = (np.maximum(logits, np.float32(-60)) for logits in (student, teacher))
    np.testing.assert_allclose(value, loss(*nearly), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [
        (losses.kl_loss, [0.0, -INF], [0.0, 0.0]),
        (losses.reverse_kl_loss, [0.0, 0.0], [0.0, -INF]),
        (losses.bce_loss, [0.0, -INF], [0.0, 0.0]),
    ],
)
def test_unbounded_losses_are_infinite_for_ruled_out_classes(loss, student, teacher):
    assert jax.jit(loss)(jnp.array([student]), jnp.array([teacher])) == INF


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 3), int)}, r"integer labels of the shape \(3, 4\) .* \(3, 3\)"),
        ({"labels": np.zeros((3, 4), "f")}, "integer labels .* float32"),
        ({"logits_S": np.zeros((3, 4, 1)), "logits_T": np.zeros((3, 4, 1))}, "two classes"),
    ],
)
def test_dkd_needs_targets(change, message):
    arguments = {"logits_S": STUDENT, "logits_T": TEACHER, "labels": LABELS} | change
    with pytest.raises(UsageError, match=f"^dkd_loss: .*{message}"):
        losses.dkd_loss(**jax.tree.map(jnp.asarray, arguments))


@pytest.mark.slow
def test_dkd_of_two_classes_is_the_divergence_of_the_target():
    """The only other class has probability 1 among the others."""
    student, teacher, labels = STUDENT[..., :2], TEACHER[..., :2], jnp.zeros((3, 4), int)
    for alpha in (1.0, 2.0):
        value = losses.dkd_loss(student, teacher, 3.0, labels=labels, alpha=alpha)
        np.testing.assert_allclose(value, alpha * losses.kl_loss(student, teacher, 3.0), rtol=1e-5)


def test_dkd_is_finite_where_only_the_target_remains():
    """The other classes have no distribution to compare; the target alone still counts."""
    teacher = jnp.array([[0.0, -INF, -INF]])
    program = jax.jit(jax.value_and_grad(lambda s, t: losses.dkd_loss(s, t, labels=jnp.array([0]))))
    value, gradient = program(jnp.zeros((1, 3)), teacher)
    np.testing.assert_allclose(value, math.log(3), rtol=1e-6)
    assert np.isfinite(gradient).all()
    value, gradient = program(teacher, teacher)
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, True, "0.5", None, np.nan])
@pytest.mark.parametrize(
    ("loss", "name"), [(losses.jsd_loss, "beta"), (losses.skew_kl_loss, "alpha")]
)
def test_mixture_weights_outside_0_to_1_are_refused(loss, name, value):
    with pytest.raises(UsageError, match=rf"^\w+_divergence: {name} must lie between .* \(at 0"):
        loss(STUDENT, TEACHER, **{name: value})
