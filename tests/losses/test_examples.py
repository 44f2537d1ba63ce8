"""Losses that relate examples, against loops over pairs and triplets in float64."""

import itertools
import math

import jax
import numpy as np
import pytest

from jaxbrewer import UsageError, losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = np.float32(RNG.normal(size=(2, 6, 3, 4)))
WIDE = np.float32(RNG.normal(size=(6, 3, 7)))
MASK = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1]])
KEPT = [0, 1, 3, 4, 5]  # the first position of the third example is padding


def huber(a, b):
    gap = abs(a - b)
    return gap**2 / 2 if gap <= 1 else gap - 1 / 2


def rkd(student, teacher, distance, angle):
    s, t = np.float64(student)[KEPT, 0], np.float64(teacher)[KEPT, 0]
    pairs = list(itertools.permutations(range(len(KEPT)), 2))
    triplets = list(itertools.permutations(range(len(KEPT)), 3))

    def relative(x):
        far = {(i, j): math.dist(x[i], x[j]) for i, j in pairs}
        return {pair: d / (sum(far.values()) / len(far)) for pair, d in far.items()}

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / math.sqrt((a @ a) * (b @ b))

    of_s, of_t = relative(s), relative(t)
    by_distance = [huber(of_s[pair], of_t[pair]) for pair in pairs]
    if angle == 0:
        return distance * np.mean(by_distance)
    by_angle = [huber(cosine(s, *three), cosine(t, *three)) for three in triplets]
    return distance * np.mean(by_distance) + angle * np.mean(by_angle)


@pytest.mark.parametrize("teacher", [TEACHER, WIDE])
@pytest.mark.parametrize("weights", [{}, {"distance": 3.0, "angle": 0.0}])
def test_rkd_equals_a_loop_over_examples(teacher, weights):
    expected = rkd(STUDENT, teacher, **({"distance": 1.0, "angle": 2.0} | weights))
    actual = jax.jit(lambda s, t: losses.rkd_loss(s, t, MASK, **weights))(STUDENT, teacher)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
def test_distances_are_relative_and_those_of_equal_examples_are_0():
    close = STUDENT[[0, 0, 2, 3, 4, 5]] / 100
    expected = rkd(close, TEACHER, 1.0, angle=0.0)
    actual = losses.rkd_loss(close, TEACHER, MASK, distance=1.0, angle=0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def crd(student, teacher, tau, dataset_size, kept=KEPT):
    s, t = (x / np.linalg.norm(x, axis=-1, keepdims=True)
            for x in (np.float64(student)[kept, 0], np.float64(teacher)[kept, 0]))  # fmt: skip
    negatives, total = len(kept) - 1, 0.0
    for i, j in itertools.product(range(len(kept)), repeat=2):
        score = math.exp(t[j] @ s[i] / tau)
        h = score / (score + negatives / dataset_size)
        total -= math.log(h) if i == j else math.log(1 - h)
    return total / len(kept)


@pytest.mark.parametrize(
    ("options", "tau", "size"),
    [({}, 0.07, 5), ({"temperature": 0.5, "dataset_size": 1000}, 0.5, 1000)],
)
def test_crd_equals_a_loop_over_examples(options, tau, size):
    actual = jax.jit(lambda s, t: losses.crd_loss(s, t, MASK, **options))(STUDENT, TEACHER)
    np.testing.assert_allclose(actual, crd(STUDENT, TEACHER, tau, size), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dataset_size": 2}])
def test_crd_of_two_examples_follows_the_formula(options):
    actual = losses.crd_loss(STUDENT[:2], TEACHER[:2], MASK[:2], **options)
    np.testing.assert_allclose(actual, crd(STUDENT, TEACHER, 0.07, 2, kept=[0, 1]), rtol=1e-5)


def test_crd_pulls_to_the_own_teacher_and_away_from_others():
    own, other = np.float32([[1, 0], [0, 1]]), np.float32([[0, 1], [1, 0]])
    student = np.float32([[1, 1], [1, 1]])
    gradient = jax.jit(jax.grad(losses.crd_loss))(student, own)
    assert np.all(np.sum(-gradient * (own - other), axis=1) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.rkd_loss, losses.crd_loss])
def test_relations_between_examples_depend_on_the_batch(loss):
    """As docs/losses.md states: a split batch gives another loss, averaged over examples."""
    first, second = STUDENT[:, 0], TEACHER[:, 0]
    sum_and_count = jax.jit(loss.sum_and_count)
    whole = sum_and_count(first, second).value()
    parts = [sum_and_count(first[part], second[part]) for part in (slice(4), slice(4, 6))]
    assert [int(part.count) for part in parts] == [4, 2]
    together = losses.add_means(*parts).value()
    np.testing.assert_allclose(
        together, (4 * parts[0].value() + 2 * parts[1].value()) / 6, rtol=1e-6
    )
    assert abs(together - whole) > 0.01 * whole
    alone = sum_and_count(first[:1], second[:1])
    assert alone == (0, 0)


def test_equal_examples_have_neither_distance_nor_direction():
    same = np.repeat(STUDENT[:1, 0], 4, axis=0)
    program = jax.jit(jax.value_and_grad(losses.rkd_loss))
    for student in (same, np.concatenate([same[:2], STUDENT[2:4, 0]])):
        value, gradient = program(student, TEACHER[:4, 0])
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("loss", "options", "teacher", "message"),
    [
        (losses.rkd_loss, {}, TEACHER[:5], r"rkd_loss: .*batch \(6 and 5\)"),
        (losses.crd_loss, {}, WIDE, r'crd_loss: .*width \(4 and 7\).*"proj": \["linear", 4, 7\]'),
        (losses.crd_loss, {"temperature": 0}, TEACHER, "temperature must be a positive number"),
        (losses.crd_loss, {"temperature": True}, TEACHER, "must be a positive number, got True"),
        (losses.crd_loss, {"dataset_size": 1}, TEACHER, "dataset_size must be None or >= 2"),
        (losses.crd_loss, {"dataset_size": "all"}, TEACHER, "None or >= 2, got 'all'"),
    ],
)
def test_mismatched_shapes_are_refused(loss, options, teacher, message):
    with pytest.raises(UsageError, match=message):
        loss(STUDENT, teacher, **options)
