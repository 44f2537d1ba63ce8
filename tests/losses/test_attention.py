import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError, losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(RNG.normal(size=(2, 2, 3, 4, 4)))
WEIGHTS = np.float32([[1, 1, 0.5, 0], [1, 0.25, 0, 0]])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def squared_difference(s, t, m):
    pairs = m[:, None, :, None] * m[:, None, None, :] * np.ones_like(s)
    return ((s - t) ** 2 * pairs).sum() / pairs.sum()


def cross_entropy(s, t, m):
    rows = m[:, None, :] * np.ones_like(s[..., 0])
    terms = softmax(t) * np.log(softmax(s)) * m[:, None, None, :]
    return -(terms.sum(-1) * rows).sum() / rows.sum()


FORMULAS = [
    (losses.att_mse_loss, lambda x: x, squared_difference),
    (losses.att_mse_sum_loss, lambda x: x.sum(1, keepdims=True), squared_difference),
    (losses.att_ce_loss, lambda x: x, cross_entropy),
    (losses.att_ce_mean_loss, lambda x: x.mean(1, keepdims=True), cross_entropy),
]
ALL = pytest.mark.parametrize("loss", [row[0] for row in FORMULAS], ids=lambda f: f.__name__)


@pytest.mark.parametrize(("loss", "heads", "formula"), FORMULAS)
def test_fractions_are_weights(loss, heads, formula):
    s, t, m = np.float64(STUDENT), np.float64(TEACHER), np.float64(WEIGHTS)
    expected = formula(heads(s), heads(t), m)
    np.testing.assert_allclose(jax.jit(loss)(STUDENT, TEACHER, WEIGHTS), expected, rtol=1e-5)


@pytest.mark.slow
@ALL
def test_a_single_head_needs_no_axis(loss):
    one_S, one_T = STUDENT[:, 0], TEACHER[:, 0]
    for mask in (None, WEIGHTS):
        expected = loss(one_S[:, None], one_T[:, None], mask)
        assert loss(one_S, one_T, mask) == expected


@pytest.mark.parametrize("loss", [losses.att_ce_loss, losses.att_ce_mean_loss])
def test_a_score_at_padding_counts_unless_it_is_infinite_or_nan(loss):
    """TextBrewer's softmax runs over padded keys: models give them -10000, or -inf."""
    mask = np.int32([[1, 1, 1, 0], [1, 1, 0, 0]])
    at_padding = (mask == 0)[:, None, None, :] & np.ones_like(STUDENT, bool)
    program = jax.jit(lambda fill: loss(
        jnp.where(at_padding, fill, STUDENT), jnp.where(at_padding, fill, TEACHER), mask
    ))  # fmt: skip
    expected = program(-1e4)
    for fill in (-np.inf, np.inf, np.nan, -1e9):
        assert program(fill) == expected
    assert abs(program(3.0) - expected) > 0.01 * expected


@ALL
def test_scores_of_minus_infinity_need_no_mask(loss):
    """Padding by -inf is padding by -10000."""
    at_padding = np.arange(4) == 3
    program = jax.jit(jax.value_and_grad(lambda s, t: loss(s, t)))
    expected, actual = (
        program(*(np.where(at_padding, np.float32(fill), x) for x in (STUDENT, TEACHER)))
        for fill in (-1e4, -np.inf)
    )
    assert np.isfinite(actual[0])
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), actual, expected)


@ALL
@pytest.mark.parametrize(
    ("S", "T", "mask", "message"),
    [
        ((2, 3, 4, 4), (2, 3, 5, 5), None, r"differ in queries \(4 and 5\): .*same positions"),
        ((2, 3, 4, 4), (1, 3, 4, 4), None, r"differ in batch \(2 and 1\): .*same examples"),
        ((2, 3, 4, 4), (2, 3, 4, 4), (2, 5), r"mask must have the shape \(2, 4\), got \(2, 5\)"),
        ((2, 3, 4, 5), (2, 3, 4, 5), (2, 4), r"mask must have the shape \(2, 5\), got \(2, 4\)"),
    ],
)
def test_scores_of_the_wrong_shape_are_refused(loss, S, T, mask, message):
    mask = None if mask is None else jnp.ones(mask)
    with pytest.raises(UsageError, match=f"^{loss.__name__}: .*{message}"):
        loss(jnp.zeros(S), jnp.zeros(T), mask)


@pytest.mark.parametrize("loss", [losses.att_mse_loss, losses.att_ce_loss])
def test_unequal_numbers_of_heads_are_refused(loss):
    """TextBrewer broadcasts it."""
    with pytest.raises(UsageError, match=r"differ in heads \(1 and 3\): .*attention_mse_sum"):
        loss(jnp.zeros((2, 1, 4, 4)), jnp.zeros((2, 3, 4, 4)))


@ALL
def test_a_mask_has_the_length_of_queries_and_of_keys(loss):
    narrow = STUDENT[:, :, :3]  # 3 queries, 4 keys
    with pytest.raises(UsageError, match=r"mask must have the shape \(2, 3\), got \(2, 4\)"):
        loss(narrow, narrow, WEIGHTS)
    with pytest.raises(UsageError, match=r"mask must have the shape \(2, 4\), got \(2, 3\)"):
        loss(narrow, narrow, WEIGHTS[:, :3])
