"""Several teachers in one step: routing, memory, batches and caches of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs, collect
from jaxbrewer.step.teachers import make_teacher_step, only_needed
from tests.toys import (
    HIDDEN_MATCH,
    Encoder,
    hidden_adaptor,
    logits_adaptor,
    mlp,
    mlp_params,
    text_data,
    vector_data,
)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def ce(p, z, tau):
    return -(p * np.log(softmax(z / tau))).sum(-1)


DATA = vector_data(12)
NETS = [jb.as_model((mlp, mlp_params(8, seed=1))), jb.as_model((mlp, mlp_params(6, seed=2)))]
NARROW = jb.as_model((mlp, mlp_params(3)))


def step_of(config, teachers=NETS, student=NARROW, adaptor=logits_adaptor, accumulation=1):
    objective = jb.make_objective(config)
    optimizer = jb.make_optimizer(optax.sgd(0.5), objective)
    state = jb.init_train_state(student, objective, optimizer)
    step = jb.make_train_step(
        student, teachers, objective, optimizer, adaptor_S=adaptor, adaptor_T=adaptor,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    return jax.jit(step), state


VARIABLES = tuple(model.variables for model in NETS)


@pytest.mark.slow
@pytest.mark.parametrize("average", ["logits", "probabilities", "losses"])
def test_teacher_id_selects_one_teacher_and_minus_one_selects_none(average):
    ids = np.array([0, 1, 1, -1, 0, 0, 1, -1, 1, 0, 0, 1], np.int32)
    config = jb.DistillationConfig(temperature=2, teacher_average=average)
    step, state = step_of(config, accumulation=2)
    batch = {**DATA, "teacher_id": ids}
    halves = tuple(jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(5), slice(5, 12)))
    metrics = step(state, VARIABLES, halves)[1]
    z = np.stack([np.asarray(mlp(model.params, DATA["x"])) for model in NETS])
    own = np.asarray(mlp(NARROW.params, DATA["x"]))
    expected = np.mean([ce(softmax(z[t, b] / 2), own[b], 2) for b, t in enumerate(ids) if t >= 0])
    np.testing.assert_allclose(metrics["total_loss"], expected, rtol=1e-5)
    assert np.isfinite(metrics["grad_norm"])


ROUTES = {
    "teacher_id": np.array([0, 1, 1, -1, 0, 0, 1, -1, 1, 0, 0, 1], np.int32),
    "teacher_weights": np.random.default_rng(1).random((12, 2)).astype(np.float32),
}


@pytest.mark.slow
@pytest.mark.parametrize(("average", "route"), [("logits", "teacher_id"), ("losses", "teacher_id"),
                                                ("probabilities", "teacher_weights")])  # fmt: skip
def test_cached_teachers_are_routed_and_weighted_as_live_ones(average, route):
    config = jb.DistillationConfig(temperature=2, teacher_average=average)
    batch = {**DATA, route: ROUTES[route]}
    step, state = step_of(config)
    expected = step(state, VARIABLES, batch)[1]["total_loss"]
    cached = jax.jit(make_teacher_step(NETS, logits_adaptor))(VARIABLES, DATA)
    of_cache, _ = step_of(config, teachers=None)
    actual = of_cache(state, None, {**batch, "teacher_cache": cached})[1]["total_loss"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    unrouted = of_cache(state, None, {**DATA, "teacher_cache": cached})[1]["total_loss"]
    assert abs(unrouted - expected) > 1e-4


@pytest.mark.slow
def test_each_teacher_may_have_its_own_batch_and_cache():
    """Teachers with different inputs; cached ones are not run."""
    seconds = {"x": DATA["x"] * 2, "labels": DATA["labels"]}
    step, state = step_of(jb.DistillationConfig(temperature=2))
    split = {"teacher": (DATA, seconds), "student": DATA}
    expected = step(state, VARIABLES, split)[1]
    assert expected["total_loss"] != step(state, VARIABLES, DATA)[1]["total_loss"]
    teach = jax.jit(make_teacher_step(NETS, [logits_adaptor, logits_adaptor]))
    cached = teach(VARIABLES, split)
    poisoned = jax.tree.map(lambda leaf: leaf * jnp.nan, VARIABLES)
    for given, variables in ((cached, poisoned), ((cached[0], None), (poisoned[0], VARIABLES[1]))):
        actual = step(state, variables, {**split, "teacher_cache": given})[1]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), actual, expected)


@pytest.mark.slow
def test_a_match_uses_the_teacher_it_names():
    teachers = [jb.as_model(Encoder(8, 2, seed=1)), jb.as_model(Encoder(10, 3, seed=2))]
    matches = [HIDDEN_MATCH, {**HIDDEN_MATCH, "teacher": 1, "proj": ["linear", 6, 10]}]
    config = jb.DistillationConfig(temperature=2, intermediate_matches=matches)
    data = text_data(6)
    step, state = step_of(config, teachers, jb.as_model(Encoder(6, 2)), hidden_adaptor)
    _, metrics = step(state, tuple(model.variables for model in teachers), data)
    student = collect(hidden_adaptor(data, Encoder(6, 2)(**_inputs(data))), "student")
    for index, name in enumerate(("hidden_hidden_mse_-1_-1", "hidden_hidden_mse_-1_-1_T1")):
        alone = jb.make_objective(jb.DistillationConfig(intermediate_matches=[
            {**matches[index], "teacher": 0}
        ]))  # fmt: skip
        teacher_outputs = hidden_adaptor(data, teachers[index].apply(
            teachers[index].params, {}, data, train=False)[0])  # fmt: skip
        projections = {"0": state.trainable["projections"][str(index)]}
        _, single = alone(student, collect(teacher_outputs, "teacher"), projections)
        np.testing.assert_allclose(
            metrics[f"unweighted_{name}"], single["unweighted_hidden_hidden_mse_-1_-1"], rtol=1e-5
        )


def _inputs(data):
    return {key: data[key] for key in ("input_ids", "attention_mask")}


def test_only_the_layers_that_matches_need_are_kept():
    layers = tuple(np.full((1, 1, 1), i) for i in range(4))
    teacher_outputs = Outputs(features={"hidden": layers, "attention": layers})
    config = jb.DistillationConfig(
        intermediate_matches=[{**HIDDEN_MATCH, "layer_T": 1}, {**HIDDEN_MATCH, "layer_T": -1}]
    )
    kept = only_needed(teacher_outputs, config).features
    assert [layer is not None for layer in kept["hidden"]] == [False, True, False, True]
    assert kept.keys() == {"hidden"}
    assert only_needed(teacher_outputs, config, teacher=1).features == {}


@pytest.mark.slow
def test_memory_of_averaged_logits_does_not_grow_with_teachers():
    """Logits are added up; averaged losses keep them all."""

    def temporary(average, teachers):
        def wide(params, x):
            return x @ params

        models = [jb.as_model((wide, jnp.full((8, 5000), i / 10))) for i in range(teachers)]
        config = jb.DistillationConfig(temperature=1, teacher_average=average)
        objective = jb.make_objective(config)
        student = jb.as_model((wide, jnp.zeros((8, 5000))))
        optimizer = jb.make_optimizer(optax.sgd(0.5), objective)
        step = jb.make_train_step(
            student, models, objective, optimizer,
            adaptor_S=lambda batch, z: {"logits": z}, adaptor_T=lambda batch, z: {"logits": z},
        )  # fmt: skip
        state = jax.eval_shape(lambda: jb.init_train_state(student, objective, optimizer))
        batch = {"x": jax.ShapeDtypeStruct((64, 8), jnp.float32)}
        variables = tuple(model.variables for model in models)
        compiled = jax.jit(step).lower(state, variables, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 64 * 5000 * 4
    assert temporary("logits", 6) < temporary("logits", 2) + 0.5 * logits
    assert temporary("losses", 6) > temporary("losses", 2) + 1.5 * logits


def test_configs_of_several_teachers_round_trip():
    config = jb.DistillationConfig(
        teacher_weights=[1, {"schedule": "linear_schedule", "init_value": 0.0, "end_value": 1.0,
                             "transition_steps": 5}],
        teacher_average="losses", teacher_temperatures=[1, 2],
    )  # fmt: skip
    assert jb.DistillationConfig.from_dict(config.to_dict()) == config
