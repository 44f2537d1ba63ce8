"""MiniLM's losses, against loops over examples and heads of unpadded sentences in float64."""

import jax
import numpy as np
import pytest

from jaxbrewer import UsageError, losses

RNG = np.random.default_rng(0)
LENGTHS = [5, 3, 0]
MASK = (np.arange(5) < np.array(LENGTHS)[:, None]).astype(np.int32)
SCORES_S, SCORES_T = np.float32(RNG.normal(size=(2, 3, 2, 5, 5)))
STUDENT, TEACHER = np.float32(RNG.normal(size=(3, 5, 4))), np.float32(RNG.normal(size=(3, 5, 6)))


def kl_of_rows(scores_T, scores_S):
    """Sum over rows of KL(softmax of the teacher's || softmax of the student's)."""
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (scores_T, scores_S))
    return np.sum(p * np.log(p / q))


def test_padded_attention_equals_that_of_each_sentence():
    total = sum(
        kl_of_rows(np.float64(SCORES_T)[b, h, :n, :n], np.float64(SCORES_S)[b, h, :n, :n])
        for b, n in enumerate(LENGTHS)
        for h in range(2)
    )
    actual = jax.jit(losses.minilm_attention_loss)(SCORES_S, SCORES_T, MASK)
    np.testing.assert_allclose(actual, total / (2 * 8), rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_padded_relations_equal_those_of_each_sentence(heads):
    def relation(states, b, n, head):
        width = states.shape[2] // heads
        x = np.float64(states)[b, :n, head * width : (head + 1) * width]
        return x @ x.T / np.sqrt(width)

    total = sum(
        kl_of_rows(relation(TEACHER, b, n, head), relation(STUDENT, b, n, head))
        for b, n in enumerate(LENGTHS)
        for head in range(heads)
    )
    loss = jax.jit(lambda s, t: losses.minilm_relation_loss(s, t, MASK, heads=heads))
    np.testing.assert_allclose(loss(STUDENT, TEACHER), total / (heads * 8), rtol=1e-5)


def test_the_length_of_the_padding_changes_nothing():
    """Lesson B.8, 55: a softmax over padding changes the loss, unless its scores are very low."""
    loss = jax.jit(losses.minilm_attention_loss)
    short = loss(SCORES_S[1:2, :, :3, :3], SCORES_T[1:2, :, :3, :3])
    longer = loss(SCORES_S[1:2], SCORES_T[1:2], MASK[1:2])
    np.testing.assert_allclose(longer, short, rtol=1e-6)


@pytest.mark.slow
def test_the_default_is_twelve_relation_heads():
    student, teacher = (np.repeat(x[..., :1], 24, axis=-1) for x in (STUDENT, TEACHER))
    np.testing.assert_array_equal(
        losses.minilm_relation_loss(student, teacher, MASK),
        losses.minilm_relation_loss(student, teacher, MASK, heads=12),
    )


@pytest.mark.parametrize(
    ("heads", "teacher", "message"),
    [
        (4, TEACHER, "heads=4 does not divide the teacher's width 6"),
        (3, TEACHER, "heads=3 does not divide the student's width 4"),
        (0, TEACHER, "heads must be an int >= 1, got 0"),
        (2.0, TEACHER, r"heads must be an int >= 1, got 2\.0"),
        (True, TEACHER, "heads must be an int >= 1, got True"),
        (2, TEACHER[:, :4], r"same positions .* \(3, 4, 6\)"),
    ],
)
def test_widths_that_heads_do_not_divide_are_refused(heads, teacher, message):
    with pytest.raises(UsageError, match=f"^minilm_relation_loss: .*{message}"):
        losses.minilm_relation_loss(STUDENT, teacher, heads=heads)
