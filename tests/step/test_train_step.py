"""The train step: exact accumulation, a teacher that is an argument, skipped overflows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.precision import Policy
from jaxbrewer.step.gradients import add_terms
from jaxbrewer.step.teachers import make_teacher_step
from jaxbrewer.step.train_step import make_eval_step
from tests.step.small_step import CONFIG, DATA, STUDENT, TEACHER, exact_adaptor, setup
from tests.toys import (
    logits_adaptor,
    mlp,
    mlp_params,
    vector_data,
)


@functools.cache
def standard(accumulation=1):
    """The step that several tests share, so that it compiles once."""
    return setup(accumulation)


@functools.cache
def raw_outputs():
    """The teacher's outputs, as a cache of the user's would hold them."""
    forward = jax.jit(lambda params: TEACHER.apply(params, {}, DATA, train=False)[0])
    return forward(TEACHER.params)


def rows(*bounds):
    return tuple(
        {key: value[start:stop] for key, value in DATA.items()}
        for start, stop in zip((0, *bounds), (*bounds, 12), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param((2, 7), id="only the first"),
        pytest.param((4, 8), id="equal", marks=pytest.mark.slow),
        pytest.param((2, 5), id="unequal", marks=pytest.mark.slow),
        pytest.param((1, 11), id="extreme", marks=pytest.mark.slow),
    ],
)
def test_any_split_into_micro_batches_gives_the_step_of_the_whole_batch(bounds):
    """Lesson B.6, 34: means of micro-batches were averaged."""
    whole, state = standard()
    expected, metrics = whole(state, TEACHER.variables, DATA)
    split, state = standard(3)
    actual, split_metrics = split(state, TEACHER.variables, rows(*bounds))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    jax.tree.map(close, actual.trainable, expected.trainable)
    jax.tree.map(close, split_metrics, metrics)


@pytest.mark.slow
def test_counting_a_group_adds_no_forward_pass():
    """The pass that adds up counts must vanish from the compiled program."""

    def flops(accumulation, batch):
        step, state = standard(accumulation)
        compiled = step.lower(state, TEACHER.variables, batch).compile()
        return compiled.cost_analysis()["flops"]

    four = tuple({key: value[:3] for key, value in DATA.items()} for _ in range(4))
    alone = flops(1, four[0])
    # A loop body is counted once, so the step over four costs about one; twice that would mean
    # that the models run in the counting loop too.
    assert flops(4, four) < 1.3 * alone


@pytest.mark.slow
def test_the_teacher_is_an_argument_and_gets_no_gradient():
    step, state = setup(optimizer=optax.sgd(0.1))

    def loss(variables):
        return step(state, variables, DATA)[1]["total_loss"]

    gradient = jax.grad(loss)(TEACHER.variables)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, TEACHER.variables)
    assert loss(doubled) != loss(TEACHER.variables)
    text = step.lower(state, TEACHER.variables, DATA).as_text()
    assert "dense_resource" not in text
    assert len(text) < 200_000


@pytest.mark.slow
def test_student_and_projections_move_and_the_step_counts():
    step, state = setup(optimizer=optax.adam(1e-2))
    after, metrics = step(state, TEACHER.variables, DATA)
    assert after.step == 1
    for part in ("student", "projections"):
        moved = jax.tree.map(jnp.array_equal, state.trainable[part], after.trainable[part])
        assert not all(jax.tree.leaves(moved))
    assert metrics["grad_norm"] > 0


@pytest.mark.slow
def test_split_batches_and_cached_teachers_give_the_same_step():
    step, state = standard()
    expected = step(state, TEACHER.variables, DATA)[1]
    split = {"teacher": DATA, "student": DATA}
    teach = jax.jit(make_teacher_step(TEACHER, exact_adaptor))
    raw = raw_outputs()
    poisoned = jax.tree.map(lambda leaf: leaf * jnp.nan, TEACHER.variables)
    for batch, variables in (
        (split, TEACHER.variables),
        ({**DATA, "teacher_cache": raw}, poisoned),
        ({**split, "teacher_cache": raw}, poisoned),
        ({**DATA, "teacher_cache": teach(TEACHER.variables, DATA)}, poisoned),
    ):
        actual = step(state, variables, batch)[1]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), actual, expected)


@pytest.mark.slow
def test_nan_in_the_teachers_padding_changes_nothing():
    """NaN where neither mask is set reaches no number and no gradient."""
    step, state = standard()
    expected, _ = step(state, TEACHER.variables, DATA)
    raw = raw_outputs()
    padding = (DATA["attention_mask"] == 0)[..., None]
    hidden = [jnp.where(padding, jnp.nan, layer) for layer in raw["hidden"]]
    batch = {**DATA, "teacher_cache": {**raw, "hidden": hidden}}
    actual, metrics = step(state, TEACHER.variables, batch)
    assert np.isfinite(metrics["grad_norm"])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, actual.trainable, expected.trainable)


@pytest.mark.slow
def test_evaluated_parts_add_up_to_the_whole_data_set():
    objective = jb.make_objective(CONFIG, total_steps=10)
    _, state = standard()
    evaluate = jax.jit(
        make_eval_step(
            STUDENT, TEACHER, objective, adaptor_S=exact_adaptor, adaptor_T=exact_adaptor
        )
    )
    parts = [evaluate(state, TEACHER.variables, batch) for batch in rows(2, 5)]
    whole = evaluate(state, TEACHER.variables, DATA)
    total, metrics = objective.combine(add_terms(*parts))
    np.testing.assert_allclose(total, objective.combine(whole)[0], rtol=1e-5)
    assert metrics.keys() == objective.combine(whole)[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_follows_float32(half):
    full, state = standard()
    _, metrics = full(state, TEACHER.variables, DATA)
    policy = Policy(param=jnp.float32, compute=half, loss_scaling=half == jnp.float16)
    step, state = setup(precision=policy)
    actual, half_metrics = step(state, TEACHER.variables, DATA)
    for leaf in jax.tree.leaves(actual.trainable):
        assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(half_metrics["total_loss"], metrics["total_loss"], rtol=0.02)
    np.testing.assert_allclose(half_metrics["grad_norm"], metrics["grad_norm"], rtol=0.05)
    assert half_metrics["total_loss"] != metrics["total_loss"]


@pytest.mark.slow
def test_an_overflow_changes_nothing_but_the_loss_scale():
    policy = Policy(param=jnp.float32, compute=jnp.float16, loss_scaling=True)
    step, state = setup(precision=policy, optimizer=optax.adam(1e-2))
    raw = raw_outputs()
    overflow = {**raw, "hidden": [layer + jnp.inf for layer in raw["hidden"]]}
    after, metrics = step(state, TEACHER.variables, {**DATA, "teacher_cache": overflow})
    same = jax.tree.map(
        jnp.array_equal, dataclasses.replace(after, loss_scale=state.loss_scale), state
    )
    assert all(jax.tree.leaves(same))
    assert after.loss_scale.scale == state.loss_scale.scale / 2
    assert metrics["skipped_steps"] == 1
    good, metrics = step(after, TEACHER.variables, DATA)
    assert good.step == 1
    assert metrics["skipped_steps"] == 1


def test_a_group_of_the_wrong_size_is_refused():
    step, state = standard(3)
    with pytest.raises(jb.UsageError, match="tuple of 3"):
        step(state, TEACHER.variables, DATA)


@pytest.mark.slow
def test_one_compilation_per_batch_shape():
    traces = []

    def counting(batch, outputs):
        traces.append(1)
        return logits_adaptor(batch, outputs)

    model = jb.as_model((mlp, mlp_params(3)))
    objective = jb.make_objective(jb.DistillationConfig())
    grouped = jb.make_optimizer(optax.adamw(optax.linear_schedule(1e-2, 0, 9)), objective)
    step = jax.jit(
        jb.make_train_step(model, model, objective, grouped, adaptor_S=counting,
                           adaptor_T=logits_adaptor), donate_argnums=0,
    )  # fmt: skip
    state = jb.init_train_state(model, objective, grouped)
    loader = jb.ArrayLoader(vector_data(20), 8)
    for _ in range(3):
        for batch in loader:  # 8, 8, 4
            state, _ = step(state, model.variables, batch)
    assert len(traces) == 2
