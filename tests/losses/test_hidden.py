import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.losses import cos_loss, hid_mse_loss, pkd_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(RNG.normal(size=(2, 3, 4, 5)))
ALL = pytest.mark.parametrize("loss", [hid_mse_loss, cos_loss, pkd_loss], ids=lambda f: f.__name__)


def test_mse_fractions_are_weights():
    weights = np.float32([[1, 1, 0.5, 0], [1, 0.25, 0, 0], [0, 0, 0, 0]])
    squares = (np.float64(STUDENT) - TEACHER) ** 2
    expected = (squares.mean(-1) * weights).sum() / weights.sum()
    np.testing.assert_allclose(hid_mse_loss(STUDENT, TEACHER, weights), expected, rtol=1e-6)


def test_cos_masks_select():
    weights = np.float32([[1, 1, 0.5, 0], [1, 0.25, 0, 0], [0, 0, 0, 0]])
    expected = cos_loss(STUDENT, TEACHER, weights != 0)
    np.testing.assert_array_equal(cos_loss(STUDENT, TEACHER, weights), expected)


@pytest.mark.slow
@ALL
def test_states_without_a_length_axis_are_compared(loss):
    pooled = STUDENT[:, 0], TEACHER[:, 0]
    expected = loss(STUDENT[:, :1], TEACHER[:, :1])
    np.testing.assert_allclose(loss(*pooled), expected, rtol=1e-6)
    mask = np.array([1, 0, 1])
    expected = loss(STUDENT[::2, :1], TEACHER[::2, :1])
    np.testing.assert_allclose(jax.jit(loss)(*pooled, mask), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_zero_vector_has_cosine_zero_and_no_gradient():
    """TextBrewer's cos has a gradient of 1e6 there, and its pkd is NaN."""
    for loss, value in ((cos_loss, 1.0), (pkd_loss, 1.0)):
        actual, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 3)), jnp.ones((1, 3)))
        np.testing.assert_allclose(actual, value, rtol=1e-6)
        assert not np.any(gradient)


def test_cos_of_short_vectors_is_that_of_pytorch():
    short = 1e-6 * jnp.array([[1.0, 0.0]])
    np.testing.assert_allclose(cos_loss(short, jnp.array([[1.0, 0.0]])), 1 - 0.5**0.5, rtol=1e-5)


def test_pkd_ignores_all_positions_but_the_first():
    other = np.concatenate([STUDENT[:, :1], np.full_like(STUDENT[:, 1:], np.nan)], axis=1)
    assert pkd_loss(other, TEACHER) == pkd_loss(STUDENT, TEACHER)


def test_pkd_leaves_out_examples_that_are_padding():
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    expected = pkd_loss(STUDENT[::2], TEACHER[::2])
    assert pkd_loss(STUDENT, TEACHER, mask) == pytest.approx(float(expected))
    mask[0, 1] = 0  # of a sequence, the first position alone decides
    assert pkd_loss(STUDENT, TEACHER, mask) == pytest.approx(float(expected))
    pooled = pkd_loss(STUDENT[:, 0], TEACHER[:, 0], mask[:, ::-1])  # padded on the left
    assert pooled == pytest.approx(float(expected))


def test_pkd_takes_a_pooled_teacher():
    assert pkd_loss(STUDENT, TEACHER[:, 0]) == pkd_loss(STUDENT, TEACHER)


@ALL
def test_widths_that_differ_need_a_projection(loss):
    message = rf"^{loss.__name__}: .*differ in width \(5 and 7\): .*\"proj\": \[\"linear\", 5, 7\]"
    with pytest.raises(UsageError, match=message):
        loss(STUDENT, np.zeros((3, 4, 7)))


@ALL
def test_masks_of_the_wrong_shape_are_refused(loss):
    with pytest.raises(UsageError, match=rf"^{loss.__name__}: .*mask must .*got \(2, 4\)"):
        loss(STUDENT, TEACHER, np.ones((2, 4)))
    with pytest.raises(UsageError, match=r"mask must .*\(3"):
        loss(STUDENT, TEACHER, np.ones((2, 4)))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_pkd_does_not_depend_on_the_norm(scale):
    s, t = np.float32([[0.3, 0.4]]), np.float32([[0.0, 0.5]])
    assert float(pkd_loss(s * scale, t)) == pytest.approx(0.6**2 + 0.2**2, rel=1e-5)
    assert float(pkd_loss(t, s * scale)) == pytest.approx(0.6**2 + 0.2**2, rel=1e-5)
