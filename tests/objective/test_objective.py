"""The objective: TextBrewer's total and metric names, and one line for each mismatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer import losses
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.objective.ensemble import Targets

RNG = np.random.default_rng(0)
B, L, C = 3, 4, 5


def outputs(width=6, **extra):
    answer = {
        "logits": RNG.normal(size=(B, C)).astype("f"),
        "hidden": [RNG.normal(size=(B, L, width)).astype("f") for _ in range(3)],
        "inputs_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
        **extra,
    }
    return collect({key: value for key, value in answer.items() if value is not None}, "student")


def hidden_match(**changes):
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.5}
    return {**match, **changes}


def make(total_steps=10, **fields):
    return jb.make_objective(jb.DistillationConfig(**fields), total_steps=total_steps)


STUDENT, TEACHER = outputs(losses=[np.array([1.0, 2.0], "f"), np.float32(4)]), outputs()


def test_total_and_names_are_textbrewers():
    objective = make(temperature=2, kd_loss_weight=0.3, hard_label_weight=0.1,
                     intermediate_matches=[hidden_match()])  # fmt: skip
    total, metrics = objective(STUDENT, TEACHER, {})
    kd = losses.kd_ce_loss(STUDENT.logits[0], TEACHER.logits[0], 2)
    hidden = losses.hid_mse_loss(
        STUDENT.features["hidden"][1], TEACHER.features["hidden"][2], STUDENT.inputs_mask
    )
    expected = {
        "unweighted_kd_loss": kd, "weighted_kd_loss": 0.3 * kd,
        "unweighted_hidden_hidden_mse_1_2": hidden,
        "weighted_hidden_hidden_mse_1_2": 0.5 * hidden,
        "unweighted_hard_label_loss": 1.5 + 4, "weighted_hard_label_loss": 0.55,
        "total_loss": 0.3 * kd + 0.5 * hidden + 0.55,
        "count_kd_loss": B, "count_hidden_hidden_mse_1_2": 9 * 6, "count_hard_label_loss": 2 + 1,
    }  # fmt: skip
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    assert total is metrics["total_loss"]


def test_schedules_apply_from_step_0_and_replace_the_constant():
    """Lesson B.7, 45: the constructor's weight was used for the first step."""
    objective = make(total_steps=4, kd_loss_weight=0.3, kd_loss_weight_scheduler="linear_decay")
    weights = [
        objective(STUDENT, TEACHER, {}, step)[1]["weighted_kd_loss"]
        / objective(STUDENT, TEACHER, {}, step)[1]["unweighted_kd_loss"]
        for step in range(4)
    ]
    np.testing.assert_allclose(weights, [1, 0.75, 0.5, 0.25], rtol=1e-6)


def test_a_match_and_the_temperature_follow_schedules():
    objective = make(
        temperature={"schedule": "linear_schedule", "init_value": 4.0, "end_value": 1.0,
                     "transition_steps": 3},
        intermediate_matches=[hidden_match(weight_scheduler="linear_growth")],
    )  # fmt: skip
    metrics = objective(STUDENT, TEACHER, {}, jnp.int32(3))[1]
    np.testing.assert_allclose(
        metrics["unweighted_kd_loss"],
        losses.kd_ce_loss(STUDENT.logits[0], TEACHER.logits[0], 1),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        metrics["weighted_hidden_hidden_mse_1_2"],
        0.3 * metrics["unweighted_hidden_hidden_mse_1_2"],
        rtol=1e-6,
    )


SCHEDULES = [
    ({"kd_loss_weight_scheduler": "linear_decay"}, "kd_loss"),
    ({"hard_label_weight_scheduler": "linear_growth"}, "hard_label_loss"),
    ({"temperature": lambda step: 4.0 - step / 10}, "temperature"),
    ({"intermediate_matches": [hidden_match(weight_scheduler="linear_growth")]}, "hidden_hidden"),
    ({"teacher_weights": [1, "linear_growth"]}, "teacher_weights"),
]


@pytest.mark.parametrize(("fields", "names"), SCHEDULES, ids=[names for _, names in SCHEDULES])
def test_scheduled_values_need_the_step(fields, names):
    objective = make(**fields)
    teacher = [TEACHER, TEACHER] if "teacher_weights" in fields else TEACHER
    terms = objective.terms(STUDENT, teacher, {}, 3)
    for call in (
        lambda: objective(STUDENT, teacher, {}),
        lambda: objective.terms(STUDENT, teacher, {}),
        lambda: objective.combine(terms),
    ):
        with pytest.raises(jb.UsageError, match=rf"schedule .{names}.*: give .* step=") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_step_is_optional_without_a_schedule():
    objective = make()
    total = objective.combine(objective.terms(STUDENT, TEACHER, {}))[0]
    assert total == objective(STUDENT, TEACHER, {}, 7)[0]


def test_metrics_hold_the_current_values_of_schedules():
    scheduled = {"temperature": lambda step: 4.0 - step / 10,
                 "kd_loss_weight_scheduler": "linear_decay"}  # fmt: skip
    objective = make(hard_label_weight=1, **scheduled)
    metrics = objective(STUDENT, TEACHER, {}, 5)[1]
    assert metrics["temperature"] == 3.5
    assert metrics["weight_kd_loss"] == 0.5
    assert "weight_hard_label_loss" not in metrics


def test_a_weight_without_its_term_is_refused():
    student = outputs(logits=np.ones((B, C), "f"))
    for fields in ({"hard_label_weight": 0.5}, {"hard_label_weight_scheduler": "linear_growth"}):
        with pytest.raises(jb.UsageError, match="hard_label_weight is set, but .* no 'losses'"):
            make(**fields).terms(student, TEACHER, {}, 0)
    nothing = outputs(losses=jb.Mean(jnp.float32(0), jnp.float32(0)))
    assert make(hard_label_weight=0.5)(nothing, TEACHER, {})[1]["count_hard_label_loss"] == 0


def test_weights_that_are_all_0_are_refused():
    match = hidden_match(weight=0)
    for fields in ({}, {"intermediate_matches": [match]}, {"custom_matches": [
        {"module_S": "a", "module_T": "b", "weight": 0}
    ]}):  # fmt: skip
        with pytest.raises(jb.UsageError, match="all weights are 0, so nothing is trained"):
            make(kd_loss_weight=0, **fields)
    make(kd_loss_weight=0, hard_label_weight_scheduler="linear_growth")


@pytest.mark.parametrize("name", ["ce", "kl", "mse"])
def test_an_empty_selection_counts_nothing(name):
    """Every position masked: the metrics show it."""
    student, teacher = (outputs(logits=x, logits_mask=np.zeros((B, L), int), hidden=None)
                        for x in RNG.normal(size=(2, B, L, C)).astype("f"))  # fmt: skip
    loss, metrics = make(kd_loss_type=name)(student, teacher, {})
    assert (loss, metrics["count_kd_loss"]) == (0, 0)


def test_a_weight_of_zero_computes_no_gradient():
    objective = make(hard_label_weight=0)
    student = outputs(losses=np.float32(np.nan))
    total, metrics = objective(student, TEACHER, {})
    assert np.isfinite(total)
    assert np.isnan(metrics["unweighted_hard_label_loss"])


def test_projections_map_the_student_to_the_teachers_width():
    objective = make(intermediate_matches=[hidden_match(proj=["tanh", 6, 8]), hidden_match()])
    projections = objective.init_projections(jax.random.key(0))
    assert jax.tree.map(jnp.shape, projections) == {"0": {"kernel": (6, 8), "bias": (8,)}}
    teacher = outputs(8)
    first = jb.make_objective(
        jb.DistillationConfig(intermediate_matches=[hidden_match(proj=["tanh", 6, 8])])
    )
    _, metrics = first(STUDENT, teacher, projections)
    mapped = np.tanh(STUDENT.features["hidden"][1] @ projections["0"]["kernel"])
    np.testing.assert_allclose(
        metrics["unweighted_hidden_hidden_mse_1_2"],
        losses.hid_mse_loss(mapped, teacher.features["hidden"][2], STUDENT.inputs_mask),
        rtol=1e-5,
    )


def test_the_same_match_twice_keeps_both_metrics():
    _, metrics = make(intermediate_matches=[hidden_match(), hidden_match(weight=2)])(
        STUDENT, TEACHER, {}
    )
    assert (
        metrics["weighted_hidden_hidden_mse_1_2#2"]
        == 2 * metrics["unweighted_hidden_hidden_mse_1_2"]
    )


def test_a_users_loss_may_return_a_scalar_or_a_mean():
    def scalar(state_S, state_T, mask=None):
        return jnp.mean(jnp.abs(state_S - state_T))

    for function in (
        scalar,
        losses.as_loss(lambda s, t, mask=None: losses.masked_mean(abs(s - t))),
    ):
        jb.register_new("match_loss", "own", function)
        _, metrics = make(intermediate_matches=[hidden_match(loss="own")])(STUDENT, TEACHER, {})
        gap = STUDENT.features["hidden"][1] - TEACHER.features["hidden"][2]
        np.testing.assert_allclose(
            metrics["unweighted_hidden_own_1_2"], np.abs(gap).mean(), rtol=1e-6
        )
        del jb.MATCH_LOSS_MAP["own"]


def test_a_users_kd_loss_without_mask_works_where_no_mask_is_needed():
    jb.register_new("kd_loss", "own", lambda s, t, temperature: jnp.sum((s - t) ** 2) / temperature)
    objective = make(kd_loss_type="own", temperature=2)
    _, metrics = objective(STUDENT, TEACHER, {})
    gap = STUDENT.logits[0] - TEACHER.logits[0]
    np.testing.assert_allclose(metrics["unweighted_kd_loss"], np.sum(gap**2) / 2, rtol=1e-6)
    masked = outputs(logits=np.zeros((B, L, C), "f"), logits_mask=np.ones((B, L)))
    with pytest.raises(jb.UsageError, match="takes no 'mask'"):
        objective(masked, masked, {})
    del jb.KD_LOSS_MAP["own"]


@pytest.mark.parametrize(
    ("fields", "student", "teacher", "says"),
    [
        ({}, outputs(logits=None), TEACHER, "student's adaptor returned no 'logits'"),
        ({}, STUDENT, outputs(logits=None), "teacher's adaptor returned no 'logits'"),
        ({}, STUDENT, outputs(logits=[np.zeros((B, C))] * 2), "1 'logits', the teacher's 2"),
        ({}, STUDENT, outputs(logits=np.zeros((B, C + 1), "f")), "5 columns, the teacher 6"),
        ({"probability_shift": True}, STUDENT, TEACHER, "needs 'labels'"),
        ({"intermediate_matches": [hidden_match(layer_S=3)]}, STUDENT, TEACHER,
         r"\[0\] \(hidden_hidden_mse_3_2\): layer_S=3 .* 3 layers"),
        ({"intermediate_matches": [hidden_match(layer_T=-4)]}, STUDENT, TEACHER, "layer_T=-4"),
        ({"intermediate_matches": [hidden_match(feature="attention", loss="attention_mse")]},
         STUDENT, TEACHER, "needs 'attention', which the student's adaptor does not return"),
        ({"intermediate_matches": [hidden_match()]}, STUDENT, outputs(8), r"\[0\].*proj"),
        ({"intermediate_matches": [hidden_match(proj=["linear", 7, 8])]}, STUDENT, outputs(8),
         "student width of 7"),
        ({}, outputs(logits=np.zeros((B, L, C), "f"), logits_mask=[np.ones((B, L))] * 2),
         outputs(logits=np.zeros((B, L, C), "f")), "2 'logits_mask' for 1 heads"),
    ],
)  # fmt: skip
def test_mismatches_are_refused_before_compiling(fields, student, teacher, says):
    objective = make(**fields)
    projections = objective.init_projections(jax.random.key(0))
    with pytest.raises(jb.UsageError, match=says) as caught:
        jax.eval_shape(objective, student, teacher, projections)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([1], "must return a dict, got list"),
        ({"logit": 1}, "did you mean 'logits'"),
        ({"hidden": {"a": 1}}, "dict under 'hidden'"),
        ({"logits": ["a"]}, "str under 'logits'"),
        ({"inputs_mask": [np.ones(2), np.ones(2)]}, "2 arrays as 'inputs_mask'"),
    ],
)
def test_bad_adaptor_outputs_are_refused(answer, says):
    with pytest.raises(jb.UsageError, match=says):
        collect(answer, "student")


def test_two_masks_for_two_heads_or_one_for_both():
    logits = [RNG.normal(size=(B, L, C)).astype("f") for _ in range(2)]
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    one = outputs(logits=logits, logits_mask=mask)
    two = outputs(logits=logits, logits_mask=[mask, mask])
    teacher = outputs(logits=[logit + 1 for logit in logits[::-1]], logits_mask=mask)
    assert make()(one, teacher, {})[0] == make()(two, teacher, {})[0]
    only = outputs(logits=[logit + 1 for logit in logits[::-1]])
    np.testing.assert_allclose(make()(one, teacher, {})[0], make()(one, only, {})[0], rtol=1e-6)


@pytest.mark.slow
def test_parameters_reach_the_loss():
    metrics = make(
        kd_loss_type={"loss": "jsd", "beta": 0.2}, temperature=2,
        intermediate_matches=[hidden_match(loss={"loss": "minilm_relation", "heads": 3})],
    )(STUDENT, TEACHER, {})[1]  # fmt: skip
    (logits_S,), (logits_T,) = STUDENT.logits, TEACHER.logits
    np.testing.assert_allclose(
        metrics["unweighted_kd_loss"], losses.jsd_loss(logits_S, logits_T, 2, beta=0.2), rtol=1e-6
    )
    relation = losses.minilm_relation_loss(
        STUDENT.features["hidden"][1], TEACHER.features["hidden"][2], STUDENT.inputs_mask, heads=3
    )
    actual = metrics["unweighted_hidden_minilm_relation_1_2"]
    np.testing.assert_allclose(actual, relation, rtol=1e-6)


def test_an_objective_keeps_its_loss_when_the_name_is_removed():
    jb.register_new("kd_loss", "passing", losses.kl_loss)
    objective = jb.make_objective(jb.DistillationConfig(kd_loss_type="passing", temperature=1))
    del jb.KD_LOSS_MAP["passing"]
    student, teacher = (jb.Outputs(logits=(jnp.array([x]),)) for x in ([0.0, 1.0], [1.0, 0.0]))
    loss, _ = objective(student, teacher, {}, step=0)
    np.testing.assert_allclose(loss, losses.kl_loss(*student.logits, *teacher.logits), rtol=1e-6)


@pytest.mark.slow
def test_labels_reach_the_losses_that_take_them():
    labels = np.array([1, 0, -100])
    objective = make(kd_loss_type={"loss": "dkd", "beta": 2.0}, temperature=2)
    (logits_S,), (logits_T,) = STUDENT.logits, TEACHER.logits
    expected = losses.dkd_loss(logits_S, logits_T, 2, labels=labels, beta=2.0)
    for student, teacher in (
        (outputs(logits=logits_S, labels=labels), TEACHER),
        (STUDENT, outputs(logits=logits_T, labels=labels)),
    ):
        np.testing.assert_allclose(objective(student, teacher, {})[0], expected, rtol=1e-6)
    with pytest.raises(jb.UsageError, match="The loss 'dkd' needs 'labels' from an adaptor"):
        objective(STUDENT, TEACHER, {})


@pytest.mark.slow
def test_labels_follow_each_example_where_teachers_are_weighed_by_example():
    labels, weights = np.array([1, 0, 3]), jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    objective = make(kd_loss_type="dkd", teacher_average="losses", temperature=2)
    other = outputs()
    student = outputs(logits=STUDENT.logits[0], labels=labels)
    one_each = (TEACHER, other)
    targets = Targets(one_each, tuple(weights.T), one_each)
    total = jax.jit(lambda s, t: objective(s, t, {})[0])(student, targets)
    chosen = np.where(weights[:, :1] == 1, TEACHER.logits[0], other.logits[0])
    expected = losses.dkd_loss(STUDENT.logits[0], chosen, 2, labels=labels)
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_no_gradient_goes_into_the_teacher():
    """Also if the caller differentiates both, such as a network that teaches itself."""
    objective = make(intermediate_matches=[hidden_match()])
    gradient = jax.jit(jax.grad(lambda t: objective(STUDENT, t, {})[0], allow_int=True))(TEACHER)
    for leaf in (*gradient.logits, *gradient.features["hidden"]):
        assert not np.any(leaf)


def test_effective_weights_include_the_power_of_the_temperature():
    """Lesson B.8, 53: raising T silently lowers the weight of TextBrewer's losses."""
    schedule = {"schedule": "linear_schedule", "init_value": 4.0, "end_value": 2.0,
                "transition_steps": 10}  # fmt: skip
    fields = {"temperature": schedule, "kd_loss_weight": 0.5, "hard_label_weight": 0.1,
              "intermediate_matches": [hidden_match(weight_scheduler="linear_growth")]}  # fmt: skip
    match = "hidden_hidden_mse_1_2"
    for kd_loss_type, first, last in (("ce", 0.5 / 16, 0.5 / 4), ("kl", 0.5, 0.5)):
        objective = make(kd_loss_type=kd_loss_type, **fields)
        for step, expected, grown in ((0, first, 0.0), (10, last, 1.0)):
            actual = {name: w.effective for name, w in objective.weights_at(step).items()}
            assert actual == pytest.approx(
                {"kd_loss": expected, "hard_label_loss": 0.1, match: grown}
            )
        ends = {name: w.last and w.last.effective for name, w in objective.weights_at(0).items()}
        changes = kd_loss_type == "ce"
        assert ends == {"kd_loss": last if changes else None, "hard_label_loss": None, match: 1}


def test_the_effective_weight_of_ce_is_that_of_kl():
    gradients = [
        jax.jit(jax.grad(lambda z, o=objective: o(outputs(logits=z, hidden=None), TEACHER, {})[0]))
        for objective in (
            make(kd_loss_type="ce", temperature=8),
            make(kd_loss_type="kl", temperature=8, kd_loss_weight=1 / 64),
        )
    ]
    ce, kl = (gradient(STUDENT.logits[0]) for gradient in gradients)
    np.testing.assert_allclose(ce, kl, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_masks_with_image_axes_are_counted(who):
    student, teacher = RNG.normal(size=(2, 2, 3, 4, C)).astype("f")
    mask = RNG.integers(0, 2, (2, 3, 4))
    of = {
        name: {"logits": logits, **({"logits_mask": mask} if who in (name, "both") else {})}
        for name, logits in (("student", student), ("teacher", teacher))
    }
    total, _ = make()(*(collect(answer, name) for name, answer in of.items()), {})
    expected = losses.kd_ce_loss(student[mask != 0], teacher[mask != 0], 4)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
