"""Top-k logits made of ids and log-probabilities, as inference servers return them."""

import jax
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.objective.top_k import TopK, keep_top_k, log_tail_at

CLASSES = 6
LOGITS = np.random.default_rng(3).normal(size=(3, CLASSES)) * 2
LOG_P = np.float32(LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True)))
LARGEST = np.argsort(-LOG_P, -1)


def pairs(*counts, rows=LARGEST):
    """Ids and log-probabilities of the largest classes, a fixed number per position."""
    ids = [rows[i, :k].tolist() for i, k in enumerate(counts)]
    return ids, [LOG_P[i, own].tolist() for i, own in enumerate(ids)]


def kd_on(kept, kd_loss_type="kl"):
    student = jb.Outputs(logits=(np.float32(np.random.default_rng(4).normal(size=(3, CLASSES))),))
    config = jb.DistillationConfig(kd_loss_type=kd_loss_type, temperature=1)
    objective = jb.make_objective(config)

    def loss(student, kept):
        return objective(student, jb.Outputs(logits=(kept,)), {})[0]

    return jax.jit(jax.value_and_grad(loss))(student, kept)


largest = jax.jit(keep_top_k, static_argnums=1)


def same(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7),
                 kd_on(actual), kd_on(expected))  # fmt: skip


def from_pairs(ids, log_probabilities, classes=CLASSES):
    return TopK.from_log_probabilities(ids, log_probabilities, classes=classes)


@pytest.mark.slow
def test_pairs_give_the_loss_of_the_logits_they_come_from():
    expected = largest(LOG_P, 2)
    same(from_pairs(*pairs(2, 2, 2)), expected)
    same(from_pairs(*map(np.asarray, pairs(2, 2, 2))), expected)
    backwards = [[row[::-1] for row in rows] for rows in pairs(2, 2, 2)]
    same(from_pairs(*backwards), expected)


def test_a_sampled_token_may_stand_there_again():
    """As inference servers return it: the sampled token, then the largest."""
    ids, log_p = pairs(2, 2, 2)
    repeated = [[row[:1] + row for row in rows] for rows in (ids, log_p)]
    same(from_pairs(*repeated), largest(LOG_P, 2))


def test_pairs_of_probability_0_are_padding_whatever_their_id():
    ids, log_p = pairs(2, 2, 2)
    padded = [[*row, -1] for row in ids], [[*row, -np.inf] for row in log_p]
    same(from_pairs(*padded), largest(LOG_P, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kd_loss_type", ["ce", "kl", "reverse_kl", "jsd", "skew_kl", "tvd"])
def test_positions_may_have_different_numbers_of_pairs(kd_loss_type):
    counts = (1, 3, CLASSES)
    ragged = kd_on(from_pairs(*pairs(*counts)), kd_loss_type)
    each = [kd_on(largest(LOG_P, k), kd_loss_type) for k in counts]
    gradient = np.asarray(ragged[1].logits[0])
    for row, (_, own) in enumerate(each):
        np.testing.assert_allclose(gradient[row], own.logits[0][row], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_rest_of_ragged_pairs_is_bounded_at_other_temperatures():
    kept = from_pairs(*pairs(1, 3, 0))
    for temperature in (0.5, 1.0, 4.0):
        bound = jax.jit(log_tail_at)(kept, temperature)
        for row, k in enumerate((1, 3, 0)):
            rest = np.sort(LOG_P[row])[: CLASSES - k]
            exact = np.log(np.exp(rest / temperature).sum())
            assert bound[row] >= exact - 1e-4
            if temperature == 1:
                np.testing.assert_allclose(bound[row], exact, rtol=1e-4)


def test_several_axes_of_positions():
    kept = from_pairs([[[1], [2, 0]], [[3], []]], [[[-1.0], [-2.0, -1.0]], [[-0.5], []]])
    assert kept.shape == (2, 2, CLASSES)
    assert kept.indices.tolist() == [[[1, 6], [0, 2]], [[3, 6], [6, 6]]]


@pytest.mark.parametrize(
    ("ids", "log_p", "says"),
    [
        ([[0, 6]], [[-1.0, -1.0]], "position 0: the id 6 is not one of 6 classes"),
        ([[0], [-1]], [[-1.0], [-1.0]], "position 1: the id -1 is not one of 6 classes"),
        ([[0, 0]], [[-1.0, -2.0]], "position 0: the id 0 has two probabilities"),
        ([[0, 1]], [[-0.1, -0.1]], "position 0: the probabilities add up to 1.80967, more than 1"),
        ([[0, 1]], [[3.0, -1.0]], "position 0: a log-probability is at most 0, got 3.0"),
        ([[0, 1]], [[np.nan, -1.0]], "position 0: a log-probability is at most 0, got nan"),
        ([[0.5]], [[-1.0]], "ids must be integers, got float64"),
        ([[0, 1]], [[-1.0]], "must have the same form"),
        ([[0], [1]], [[-1.0]], "must have the same form"),
        ([[[0]], [1]], [[-1.0], [-1.0]], "only the last axis may be ragged"),
        (3, 4, "needs arrays .* or nested lists, got int"),
    ],
)
def test_pairs_that_are_none_are_refused(ids, log_p, says):
    with pytest.raises(jb.UsageError, match=says) as caught:
        from_pairs(ids, log_p)
    assert "\n" not in str(caught.value)
