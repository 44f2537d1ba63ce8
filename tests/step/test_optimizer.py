"""The optimizer of a step: settings per projection, clipping, the user's masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from tests.step.small_step import CONFIG, DATA, STUDENT, TEACHER, setup
from tests.toys import (
    HIDDEN_MATCH,
    hidden_adaptor,
)


def train_projection(optimizer, settings):
    match = {**HIDDEN_MATCH, "proj": [*HIDDEN_MATCH["proj"], settings]}
    config = jb.DistillationConfig(intermediate_matches=[match])
    step, state = setup(optimizer=optimizer, adaptor=hidden_adaptor, config=config)
    after, _ = step(state, TEACHER.variables, DATA)
    return jax.tree.map(lambda a, b: np.abs(a - b).max(), after.trainable, state.trainable)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"lr": 0.0}, {"optimizer": "sgd", "learning_rate": 0.0}, {"optimizer": "set_to_zero"}],
)
def test_a_projection_may_have_its_own_optimizer_settings(settings):
    moved = train_projection(functools.partial(optax.sgd, learning_rate=0.1), settings)
    assert max(jax.tree.leaves(moved["projections"])) == 0
    assert max(jax.tree.leaves(moved["student"])) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (optax.sgd(0.1), {"lr_scale": 3}),
        (functools.partial(optax.sgd, 0.1), {"lr_scale": 3}),
        (optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), {"lr": 0.3}),
        (optax.adam(0.1), {"optimizer": "sgd", "lr": 0.1, "lr_scale": 3}),
    ],
)
def test_a_finished_optimizer_may_take_other_steps_for_a_projection(optimizer, settings):
    expected = train_projection(optax.sgd(0.1), {"optimizer": "sgd", "learning_rate": 0.3})
    actual = train_projection(optimizer, settings)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, actual["projections"], expected["projections"])


@pytest.mark.parametrize(
    ("optimizer", "settings", "says"),
    [
        (optax.sgd(0.1), {"lr": 0.1}, r"proj\[3\] sets \['learning_rate'\].*functools.partial"),
        (optax.sgd(0.1), {"lr": 0.1, "lr_scale": 2}, r"proj\[3\] sets \['learning_rate'\]"),
        (optax.sgd(0.1), {"lr_scale": "2"}, "lr_scale must be a number >= 0"),
        (optax.sgd(0.1), {"lr_scale": float("nan")}, "lr_scale must be a number >= 0"),
        (functools.partial(optax.adam, 0.1), {"betas": 0.9}, "betas must be two numbers, got 0.9"),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
            {"nesterov": True},
            r"Numbers can be set for \['learning_rate'\]",
        ),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=optax.constant_schedule(0.1)),
            {"lr": 0.1},
            "cannot be changed. Pass",
        ),
        (optax.sgd(0.1), {"optimizer": "adamww"}, "no optimizer 'adamww'"),
        (functools.partial(optax.sgd, 0.1), {"rate": 1}, "The optimizer takes: .*momentum"),
    ],
)
def test_bad_projection_settings_are_refused(optimizer, settings, says):
    with pytest.raises(jb.UsageError, match=says):
        train_projection(optimizer, settings)


@pytest.mark.slow
def test_clipping_uses_the_norm_of_student_and_projections():
    """Lesson B.6, 36: a projection moved by 124 under a norm of 1e-6."""
    objective = jb.make_objective(CONFIG)
    grouped = jb.make_optimizer(optax.sgd(1.0), objective, max_grad_norm=1e-3)
    state = jb.init_train_state(STUDENT, objective, grouped)
    step = jb.make_train_step(
        STUDENT, TEACHER, objective, grouped, adaptor_S=hidden_adaptor, adaptor_T=hidden_adaptor
    )
    after, metrics = jax.jit(step)(state, TEACHER.variables, DATA)
    update = jax.tree.map(jnp.subtract, after.trainable, state.trainable)
    np.testing.assert_allclose(optax.tree.norm(update), 1e-3, rtol=1e-3)
    assert metrics["grad_norm"] > 1e-2


def test_the_users_optimizer_masks_get_the_students_own_tree():
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, STUDENT.params)
    setup(optimizer=optax.adamw(1e-3, mask=mask), config=jb.DistillationConfig())
