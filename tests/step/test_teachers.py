"""Several teachers: averages against the formula by hand, routing, memory, batches of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs, collect
from jaxbrewer.objective.ensemble import Lesson, add_teacher, routing_weights, targets_of
from jaxbrewer.step.teachers import make_teacher_step, only_needed
from tests.toys import (
    HIDDEN_MATCH,
    Encoder,
    hidden_adaptor,
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    text_data,
    vector_data,
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
            lesson = Lesson()
            for z in teachers:
                lesson = add_teacher(
                    objective.ensemble, lesson, outputs(z), step=0, temperature=3.0, routing=routing
                )
            targets = targets_of(objective.ensemble, lesson, temperature=3.0, routing=routing)
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


def test_two_teachers_have_temperatures_of_their_own():
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


def test_masks_of_their_own_bring_teachers_to_the_students_positions():
    """Lesson B.5, 22: teacher 0's mask was used for all."""
    rng = np.random.default_rng(1)
    selected = rng.normal(size=(3, 4, C)).astype("f")  # what each model says of four tokens

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
    for teachers in ((first, short), (short, first)):  # what all of them have is compared
        np.testing.assert_allclose(program(student, teachers), np.mean(each[:3]), rtol=1e-5)


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


DATA = vector_data(12)
NETS = [jb.as_model((mlp, mlp_params(8, seed=1))), jb.as_model((mlp, mlp_params(6, seed=2)))]
NARROW = jb.as_model((mlp, mlp_params(3)))


def step_of(config, teachers=NETS, student=NARROW, adaptor=logits_adaptor, accumulation=1):
    objective = jb.make_objective(config)
    rule = jb.make_optimizer(optax.sgd(0.5), objective)
    state = jb.init_train_state(student, objective, rule)
    step = jb.make_train_step(
        student, teachers, objective, rule, adaptor_S=adaptor, adaptor_T=adaptor,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    return jax.jit(step), state


VARIABLES = tuple(model.variables for model in NETS)


@pytest.mark.parametrize("average", ["logits", "probabilities", "losses"])
def test_routing_gives_each_example_its_teacher_and_none_for_minus_one(average):
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


def test_weights_of_a_batch_are_a_row_for_each_example():
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
def test_what_a_teacher_says_unasked_may_be_nan(average):
    objective = jb.make_objective(jb.DistillationConfig(temperature=2, teacher_average=average))
    routing = np.float32([[1, 0], [0, 2], [1, 1], [0, 0], [0.5, 0], [0, 1]])

    @jax.jit
    @jax.value_and_grad
    def loss(student, teachers):
        lesson = Lesson()
        for z in teachers:
            lesson = add_teacher(
                objective.ensemble, lesson, outputs(z), step=0, temperature=2.0, routing=routing
            )
        targets = targets_of(objective.ensemble, lesson, temperature=2.0, routing=routing)
        return objective(outputs(student), targets, {})[0]

    student, teachers = STUDENT.astype("f"), TEACHERS[:2].astype("f")
    value, gradient = loss(student, teachers)
    assert np.isfinite(gradient).all()
    assert not gradient[3].any()
    unasked = np.where(routing.T[..., None] != 0, teachers, np.float32(np.nan))
    jax.tree.map(np.testing.assert_array_equal, loss(student, unasked), (value, gradient))


@pytest.mark.parametrize("average", ["logits", "probabilities", "losses"])
def test_what_a_teacher_of_weight_0_says_may_be_nan(average):
    student, teacher = STUDENT.astype("f"), TEACHERS[0].astype("f")
    both, alone = (
        jb.make_objective(jb.DistillationConfig(teacher_average=average, teacher_weights=weights))
        for weights in ([1, 0], [1])
    )
    program = jax.value_and_grad(lambda s, o, two: o(outputs(s), two, {})[0])
    expected = program(student, alone, (outputs(teacher),))
    actual = program(student, both, (outputs(teacher), outputs(teacher * np.nan)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), actual, expected)


@pytest.mark.slow
def test_batches_and_caches_of_their_own():
    """Teachers with different inputs; cached ones are not run."""
    seconds = {"x": DATA["x"] * 2, "labels": DATA["labels"]}
    step, state = step_of(jb.DistillationConfig(temperature=2))
    split = {"teacher": (DATA, seconds), "student": DATA}
    expected = step(state, VARIABLES, split)[1]
    assert expected["total_loss"] != step(state, VARIABLES, DATA)[1]["total_loss"]
    teach = make_teacher_step(NETS, [logits_adaptor, logits_adaptor])
    cached = teach(VARIABLES, split)
    poisoned = jax.tree.map(lambda leaf: leaf * jnp.nan, VARIABLES)
    for given, variables in ((cached, poisoned), ((cached[0], None), (poisoned[0], VARIABLES[1]))):
        actual = step(state, variables, {**split, "teacher_cache": given})[1]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), actual, expected)


@pytest.mark.slow
def test_a_match_names_its_teacher():
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
        told = hidden_adaptor(data, teachers[index].apply(
            teachers[index].params, {}, data, train=False)[0])  # fmt: skip
        projections = {"0": state.trainable["projections"][str(index)]}
        _, single = alone(student, collect(told, "teacher"), projections)
        np.testing.assert_allclose(
            metrics[f"unweighted_{name}"], single["unweighted_hidden_hidden_mse_-1_-1"], rtol=1e-5
        )


def _inputs(data):
    return {key: data[key] for key in ("input_ids", "attention_mask")}


def test_only_the_layers_that_matches_need_are_kept():
    layers = tuple(np.full((1, 1, 1), i) for i in range(4))
    told = Outputs(features={"hidden": layers, "attention": layers})
    config = jb.DistillationConfig(
        intermediate_matches=[{**HIDDEN_MATCH, "layer_T": 1}, {**HIDDEN_MATCH, "layer_T": -1}]
    )
    kept = only_needed(told, config).features
    assert [layer is not None for layer in kept["hidden"]] == [False, True, False, True]
    assert kept.keys() == {"hidden"}
    assert only_needed(told, config, teacher=1).features == {}


def test_averaged_logits_are_one_set_however_many_teachers():
    """Memory: a running sum, not a list; losses that are averaged need them all."""

    def temporary(average, teachers):
        def wide(params, x):
            return x @ params

        models = [jb.as_model((wide, jnp.full((8, 5000), i / 10))) for i in range(teachers)]
        config = jb.DistillationConfig(temperature=1, teacher_average=average)
        objective = jb.make_objective(config)
        student = jb.as_model((wide, jnp.zeros((8, 5000))))
        rule = jb.make_optimizer(optax.sgd(0.5), objective)
        step = jb.make_train_step(
            student, models, objective, rule,
            adaptor_S=lambda batch, z: {"logits": z}, adaptor_T=lambda batch, z: {"logits": z},
        )  # fmt: skip
        state = jax.eval_shape(lambda: jb.init_train_state(student, objective, rule))
        batch = {"x": jax.ShapeDtypeStruct((64, 8), jnp.float32)}
        variables = tuple(model.variables for model in models)
        compiled = jax.jit(step).lower(state, variables, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 64 * 5000 * 4
    assert temporary("logits", 6) < temporary("logits", 2) + 0.5 * logits
    assert temporary("losses", 6) > temporary("losses", 2) + 1.5 * logits


def multi(config, teachers=None, adaptor_T=logits_adaptor):
    teachers = teachers or [(mlp, model.params) for model in NETS]
    return jb.MultiTeacherDistiller(
        quiet(), config, teachers, (mlp, mlp_params(3)), adaptor_T, logits_adaptor
    )


def test_what_does_not_fit_is_refused_in_one_line():
    def refused(call, *parts):
        with pytest.raises(jb.UsageError) as error:
            call()
        assert "\n" not in str(error.value)
        for part in parts:
            assert part in str(error.value)

    batches = [DATA]
    check = functools.partial(jb.MultiTeacherDistiller.check, optimizer=optax.sgd(0.1),
                              num_epochs=1)  # fmt: skip
    config = jb.DistillationConfig
    refused(lambda: multi(config(), teachers=(mlp, mlp_params(3))[0]), "model_T", "list")
    refused(lambda: check(multi(config(teacher_weights=[1, 1, 1])), dataloader=batches),
            "teacher_weights has 3 entries for 2")  # fmt: skip
    refused(lambda: check(multi(config(), adaptor_T=[logits_adaptor]), dataloader=batches),
            "1 teacher adaptors for 2 teachers")  # fmt: skip
    both = [{**DATA, "teacher_id": np.zeros(12, int), "teacher_weights": np.ones((12, 2))}]
    refused(lambda: check(multi(config()), dataloader=both), "teacher_id", "teacher_weights")
    refused(lambda: check(multi(config()), dataloader=[{**DATA, "teacher_weights": DATA["x"]}]),
            "[batch, 2]")  # fmt: skip
    refused(lambda: check(multi(config()), dataloader=[{**DATA, "teacher_cache": (None,)}]),
            "teacher_cache", "2 teachers")  # fmt: skip
    wide = [(mlp, NETS[0].params), (lambda params, x: mlp(params, x)[:, :3], NETS[1].params)]
    refused(
        lambda: check(multi(config(), wide), dataloader=batches),
        "teacher 0 has 5 columns, teacher 1 3",
    )
    matches = [{**HIDDEN_MATCH, "teacher": 2}]
    refused(lambda: check(multi(config(intermediate_matches=matches)), dataloader=batches),
            "no teacher 2 among 2")  # fmt: skip
    refused(lambda: config(teacher_average="median"), "teacher_average", "'logits'")
    refused(lambda: config(teacher_weights=[-1, 1]), "teacher_weights", ">= 0")
    refused(lambda: config(teacher_weights=[0, 0]), "teacher_weights", "not all 0")
    refused(lambda: config(teacher_temperatures=[0, 1]), "teacher_temperatures", "positive")
    ruled = {"teacher_average": "probabilities", "temperature_scheduler": ["flsw", 1, 1]}
    refused(lambda: multi(config(**ruled)), "temperature_scheduler", "probabilities")


def test_the_config_round_trips():
    config = jb.DistillationConfig(
        teacher_weights=[1, {"schedule": "linear_schedule", "init_value": 0.0, "end_value": 1.0,
                             "transition_steps": 5}],
        teacher_average="losses", teacher_temperatures=[1, 2],
    )  # fmt: skip
    assert jb.DistillationConfig.from_dict(config.to_dict()) == config
