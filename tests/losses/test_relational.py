import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.losses import fsp_loss, mmd_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(RNG.normal(size=(2, 2, 2, 4, 3)))
WEIGHTS = np.float32([[1, 1, 0.5, 0], [1, 0.25, 0, 0]])


@pytest.mark.slow
def test_fsp_follows_the_formula():
    def flow(state):
        x_0, x_1 = np.float64(state) * WEIGHTS[None, :, :, None]
        return x_0.transpose(0, 2, 1) @ x_1 / WEIGHTS.sum(1)[:, None, None]

    expected = ((flow(STUDENT) - flow(TEACHER)) ** 2).mean()
    np.testing.assert_allclose(fsp_loss(STUDENT, TEACHER, WEIGHTS), expected, rtol=1e-5)


def test_mmd_follows_the_formula():
    teacher = np.float32(RNG.normal(size=(2, 2, 4, 6)))

    def similarity(state):
        x_0, x_1 = np.float64(state)
        return x_0 @ x_1.transpose(0, 2, 1) / x_0.shape[-1]

    pairs = WEIGHTS[:, :, None] * WEIGHTS[:, None, :]
    squares = (similarity(STUDENT) - similarity(teacher)) ** 2
    expected = (squares * pairs).sum() / pairs.sum()
    np.testing.assert_allclose(mmd_loss(STUDENT, teacher, WEIGHTS), expected, rtol=1e-5)


def test_fsp_takes_layers_of_two_widths():
    student, teacher = ([x[0], np.concatenate([x[1], x[1]], -1)] for x in (STUDENT, TEACHER))
    np.testing.assert_allclose(fsp_loss(student, teacher), fsp_loss(STUDENT, TEACHER), rtol=1e-5)


@pytest.mark.slow
def test_an_empty_example_keeps_fsp_finite():
    """TextBrewer divides by the length of each example."""
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    expected = fsp_loss(STUDENT[:, :1], TEACHER[:, :1], mask[:1])
    assert fsp_loss(STUDENT, TEACHER, mask) == pytest.approx(float(expected))


def test_fsp_without_a_mask_compares_models_of_different_lengths():
    """Its matrices are (width, width); TextBrewer takes them too."""
    rng = np.random.default_rng(3)
    student, teacher = (
        [np.float32(rng.normal(size=(2, length, width))) for width in (3, 4)] for length in (5, 9)
    )
    flows = [np.einsum("bli,blj->bij", *state) / state[0].shape[1] for state in (student, teacher)]
    expected = np.mean((flows[0] - flows[1]) ** 2)
    np.testing.assert_allclose(fsp_loss(student, teacher), expected, rtol=1e-5)
    for mask in (np.ones((2, 5)), np.ones((2, 9))):  # a mask fits one of the two alone
        with pytest.raises(UsageError, match=r"four arrays \(batch, length, width\) expected"):
            fsp_loss(student, teacher, mask)
    with pytest.raises(UsageError, match="four arrays"):
        fsp_loss([student[0], teacher[1]], teacher)


@pytest.mark.parametrize("loss", [fsp_loss, mmd_loss])
def test_one_layer_where_two_are_needed_is_refused(loss):
    with pytest.raises(UsageError, match=f"^{loss.__name__} compares two layers .* got 1 and 2"):
        loss(STUDENT[:1], TEACHER)
    with pytest.raises(UsageError, match=r"four arrays .* got \(4, 3\)"):
        loss(STUDENT[:, 0], TEACHER[:, 0])
    with pytest.raises(UsageError, match=r"four arrays .* \(2, 3, 3\)"):
        loss(STUDENT, TEACHER[:, :, :3], WEIGHTS)
    with pytest.raises(UsageError, match=r"mask must have the shape \(2, 4\), got \(2, 3\)"):
        loss(STUDENT, TEACHER, jnp.ones((2, 3)))


def test_unequal_widths_are_refused():
    wide = np.zeros((2, 2, 4, 6))
    with pytest.raises(UsageError, match=r"fsp_loss: .*width \(3 and 6\): .*proj"):
        fsp_loss(STUDENT, wide)
    with pytest.raises(UsageError, match="mmd_loss: two layers of one width"):
        mmd_loss([STUDENT[0], wide[0]], TEACHER)


def test_fractional_masks_below_one_position_divide_fsp():
    """G = sum(m^2 x0 x1) / sum(m), so that half a position gives half its product."""
    x = np.ones((1, 2, 3), np.float32)
    value = fsp_loss([x, x], [x, 3 * x], np.float32([[0.5, 0]]))
    assert float(value) == pytest.approx((0.5 * 2) ** 2)
