"""Averages of several teachers against the formula in float64: weights, temperatures, masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.objective.ensemble import (
    RunningTargets,
    add_outputs,
    finish_targets,
    routing_weights,
)

RNG = np.random.default_rng(0)
B, C = 6, 5
STUDENT = RNG.normal(size=(B, C))
TEACHERS = RNG.normal(size=(3, B, C)) * 2
WEIGHTS = RNG.uniform(size=(B, 3))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def ce(p, z, tau):
    return -(p * np.log(softmax(z / tau))).sum(-1)


def by_hand(average, weights, temperatures, tau):
    """Weighted means as the documentation defines them, per example, in float64 NumPy."""
    weights = np.broadcast_to(weights, (B, 3)) / np.sum(weights, -1, keepdims=True)
    each = zip(weights.T, TEACHERS, temperatures, strict=True)
    if average == "losses":
        return np.mean(sum(w * ce(softmax(z / t), STUDENT, t) for w, z, t in each))
    if average == "probabilities":
        return np.mean(ce(sum(w[:, None] * softmax(z / t) for w, z, t in each), STUDENT, tau))
    return np.mean(ce(softmax(sum(w[:, None] * z / t for w, z, t in each)), STUDENT, tau))


def outputs(logits, **more):
    return collect({"logits": logits, **more}, "teacher")


@functools.cache
def averages(routed):
    """All of them in one compiled program, in float64."""
    configs = {
        (average, own): jb.make_objective(
            jb.DistillationConfig(
                temperature=3,
                teacher_average=average,
                teacher_weights=[1, 2, 3],
                teacher_temperatures=[1, 2, 4] if own else None,
            )
        )
        for average in ("logits", "probabilities", "losses")
        for own in (False, True)
    }

    def losses(student, teachers, routing):
        values = {}
        for name, objective in configs.items():
            running = RunningTargets()
            for z in teachers:
                running = add_outputs(
                    objective.ensemble,
                    running,
                    outputs(z),
                    step=0,
                    temperature=3.0,
                    routing=routing,
                )
            targets = finish_targets(objective.ensemble, running, temperature=3.0, routing=routing)
            values[name] = objective(outputs(student), targets, {})[0]
        return values

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(losses)(STUDENT, TEACHERS, WEIGHTS if routed else None))


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("average", ["logits", "probabilities", "losses"])
def test_averages_follow_the_formula(average, own, routed):
    weights = np.array([1.0, 2, 3]) * (WEIGHTS if routed else 1)
    expected = by_hand(average, weights, [1, 2, 4] if own else [3, 3, 3], 3)
    np.testing.assert_allclose(averages(routed)[average, own], expected, rtol=1e-12)


@pytest.mark.slow
def test_each_teacher_has_its_own_temperature():
    config = jb.DistillationConfig(teacher_average="losses", teacher_temperatures=[1, 4])
    two = tuple(outputs(z.astype("f")) for z in TEACHERS[:2])
    loss, _ = jb.make_objective(config)(outputs(STUDENT.astype("f")), two, {})
    each = (ce(softmax(z / t), STUDENT, t) for z, t in zip(TEACHERS, (1, 4), strict=False))
    np.testing.assert_allclose(loss, np.mean(list(each)), rtol=1e-5)


def test_a_scheduled_weight_follows_the_step():
    config = jb.DistillationConfig(temperature=1, teacher_weights=["linear_decay", 1])
    objective = jb.make_objective(config, total_steps=4)
    two = tuple(outputs(z.astype("f")) for z in TEACHERS[:2])
    for step, weight in ((0, 1.0), (2, 0.5)):
        mean = (weight * TEACHERS[0] + TEACHERS[1]) / (weight + 1)
        loss, _ = objective(outputs(STUDENT.astype("f")), two, {}, step)
        np.testing.assert_allclose(loss, np.mean(ce(softmax(mean), STUDENT, 1)), rtol=1e-5)


@pytest.mark.slow
def test_each_teachers_mask_selects_its_own_positions():
    """Lesson B.5, 22: teacher 0's mask was used for all."""
    rng = np.random.default_rng(1)
    selected = rng.normal(size=(3, 4, C)).astype("f")  # logits of each model at four tokens

    def placed(values, mask):
        logits = rng.normal(size=(*mask.shape, C)).astype("f")
        logits[mask != 0] = values
        return collect({"logits": logits, "logits_mask": mask}, "model")

    student = placed(selected[0], np.array([[1, 1, 0], [0, 1, 1]]))
    first = placed(selected[1], np.array([[1, 1, 0, 0], [1, 1, 0, 0]]))
    second = placed(selected[2], np.array([[1, 0, 0, 0, 1], [0, 1, 0, 1, 0]]))
    short = placed(selected[2, :3], np.array([[1, 0, 0, 0, 1], [0, 0, 0, 1, 0]]))
    objective = jb.make_objective(jb.DistillationConfig(temperature=1))
    program = jax.jit(lambda s, t: objective(s, t, {})[0])
    each = ce(softmax(selected[1:].mean(0)), selected[0], 1)
    np.testing.assert_allclose(program(student, (first, second)), np.mean(each), rtol=1e-5)
    for teachers in ((first, short), (short, first)):  # the positions that all of them have
        np.testing.assert_allclose(program(student, teachers), np.mean(each[:3]), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [(0,), (1,), (0, 1)])
def test_a_mask_of_one_teacher_serves_all(masked):
    rng = np.random.default_rng(3)
    student, *teachers = rng.normal(size=(3, 2, 3, C)).astype("f")
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    two = tuple(
        outputs(z, **({"logits_mask": mask} if index in masked else {}))
        for index, z in enumerate(teachers)
    )
    objective = jb.make_objective(jb.DistillationConfig(temperature=1))
    loss, _ = objective(outputs(student), two, {})
    kept = mask != 0
    expected = np.mean(ce(softmax(np.mean(teachers, 0)[kept]), student[kept], 1))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_routing_weights_have_one_row_per_example():
    given = jnp.array([[1.0, 0.0], [0.5, 2.0]])
    assert routing_weights(None, given, 2) is given
    assert routing_weights(None, None, 2) is None
    for wrong in (given[0], given[..., None], given[:, :1]):
        with pytest.raises(jb.UsageError, match=r"must have the shape \[batch, 2\]"):
            routing_weights(None, wrong, 2)
    for wrong in (jnp.array([0.0, 1.0]), jnp.array([[0, 1]])):
        with pytest.raises(jb.UsageError, match=r"must be integers of shape \[batch\]"):
            routing_weights(wrong, None, 2)


@pytest.mark.parametrize("average", ["logits", "probabilities", "losses"])
def test_logits_of_an_unselected_teacher_may_be_nan(average):
    objective = jb.make_objective(jb.DistillationConfig(temperature=2, teacher_average=average))
    routing = np.float32([[1, 0], [0, 2], [1, 1], [0, 0], [0.5, 0], [0, 1]])

    @jax.jit
    @jax.value_and_grad
    def loss(student, teachers):
        running = RunningTargets()
        for z in teachers:
            running = add_outputs(
                objective.ensemble, running, outputs(z), step=0, temperature=2.0, routing=routing
            )
        targets = finish_targets(objective.ensemble, running, temperature=2.0, routing=routing)
        return objective(outputs(student), targets, {})[0]

    student, teachers = STUDENT.astype("f"), TEACHERS[:2].astype("f")
    value, gradient = loss(student, teachers)
    assert np.isfinite(gradient).all()
    assert not gradient[3].any()
    unasked = np.where(routing.T[..., None] != 0, teachers, np.float32(np.nan))
    jax.tree.map(np.testing.assert_array_equal, loss(student, unasked), (value, gradient))


@pytest.mark.slow
@pytest.mark.parametrize("average", ["logits", "probabilities", "losses"])
def test_logits_of_a_teacher_of_weight_0_may_be_nan(average):
    student, teacher = STUDENT.astype("f"), TEACHERS[0].astype("f")
    both, alone = (
        jb.make_objective(jb.DistillationConfig(teacher_average=average, teacher_weights=weights))
        for weights in ([1, 0], [1])
    )
    program = jax.value_and_grad(lambda s, o, two: o(outputs(s), two, {})[0])
    expected = program(student, alone, (outputs(teacher),))
    actual = program(student, both, (outputs(teacher), outputs(teacher * np.nan)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), actual, expected)
