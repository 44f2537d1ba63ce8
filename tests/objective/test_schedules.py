import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbrewer import DistillationConfig, UsageError, make_objective, register_new
from jaxbrewer.objective.schedules import temperature_schedule, weight_schedule
from jaxbrewer.registry import WEIGHT_SCHEDULER


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_a_constant_is_a_python_float():
    weight = weight_schedule("none", 0)
    assert (weight, type(weight)) == (0.0, float)


def test_a_named_schedule_applies_from_step_zero_and_replaces_the_constant():
    """TextBrewer's first step has the constant, and its second f(1 / 4)."""
    assert values(weight_schedule("linear_decay", 0.3, 4), range(4)) == [1, 0.75, 0.5, 0.25]
    assert values(weight_schedule("linear_growth", 0.3, 4), range(4)) == [0, 0.25, 0.5, 0.75]


def test_a_named_schedule_stays_where_training_ends():
    assert values(weight_schedule("linear_growth", 0, 4), [4, 5, 400]) == [1, 1, 1]
    assert values(weight_schedule("linear_growth", 0, 1), [0, 1]) == [0, 1]


def test_a_named_schedule_is_traced_with_the_step():
    schedule = jax.jit(weight_schedule("linear_decay", 1.0, 3_000_000))
    np.testing.assert_allclose(schedule(jnp.int32(2_999_999)), 1 / 3_000_000, rtol=0.2)
    assert schedule(jnp.int32(0)).dtype == np.float32


def test_a_registered_schedule_is_used(monkeypatch):
    monkeypatch.setitem(WEIGHT_SCHEDULER, "square", lambda x: x**2)
    assert values(weight_schedule("square", 1, 2), [0, 1, 2]) == [0, 0.25, 1]


@pytest.mark.parametrize(
    "spec",
    [
        {"schedule": "cosine_decay_schedule", "init_value": 2.0, "decay_steps": 10},
        ["cosine_decay_schedule", {"init_value": 2.0, "decay_steps": 10}],
        ("cosine_decay_schedule", {"init_value": 2.0, "decay_steps": 10}),
        optax.cosine_decay_schedule(2.0, 10),
    ],
)
def test_optax_schedules_are_built_by_name(spec):
    before = repr(spec)
    schedule = weight_schedule(spec, 1.0)
    assert values(schedule, [0, 5, 10]) == pytest.approx([2, 1, 0], abs=1e-6)
    assert repr(spec) == before


def test_the_steps_of_a_schedule_are_text_in_json():
    spec = {
        "schedule": "piecewise_constant_schedule",
        "init_value": 1.0,
        "boundaries_and_scales": {"3": 0.5},
    }
    assert values(weight_schedule(spec, 1.0), [2, 4]) == [1, 0.5]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linear_decai", "weight scheduler 'linear_decai' is unknown: did you mean 'linear_decay'"),
        ("linear_decay", "'linear_decay' needs the number of optimizer steps: give num_steps"),
        ({"schedule": "cosine_decay"}, "did you mean 'cosine_decay_schedule'"),
        ({"schedule": "cosine_decay_schedule"}, "missing a required argument: 'init_value'"),
        (
            {"schedule": "linear_schedule", "end_valu": 1},
            "no argument 'end_valu': did you mean 'end_value'",
        ),
        ({"init_value": 1}, "schedule None is not one of optax"),
        (
            {"schedule": "cosine_decay_schedule", "init_value": 1, "decay_steps": -1},
            "cosine_decay_schedule.*positive decay_steps",
        ),
        (["linear_schedule"], r"must be a name, .* got \['linear_schedule'\]"),
        (3, "must be a name, .* got 3"),
    ],
)
def test_bad_schedules_are_refused(spec, message):
    with pytest.raises(UsageError, match=message) as error:
        weight_schedule(spec, 1.0)
    assert "\n" not in str(error.value)


def test_only_schedules_of_optax_are_offered():
    with pytest.raises(UsageError) as error:
        weight_schedule({"schedule": "cosine_decay"}, 1.0)
    offered = str(error.value).split("Allowed: ")[1].rstrip(".").split(", ")
    assert len(offered) > 5
    assert all(name.strip("'").endswith("_schedule") for name in offered)


def schedule_of(step):
    return step / 10


def schedule_of_fraction(fraction, power=2):
    return fraction**power


@pytest.fixture
def registered():
    names = []

    def register(function, **facts):
        register_new("weight_scheduler", f"own{len(names)}", function, **facts)
        names.append(f"own{len(names)}")
        return names[-1]

    yield register
    for name in names:
        del WEIGHT_SCHEDULER[name]


@pytest.mark.parametrize("function", [schedule_of, schedule_of_fraction])
def test_a_function_means_the_same_with_and_without_a_name(registered, function):
    name = registered(function)
    ways = function, name, {"schedule": name}, [name, {}]
    first, *others = (values(weight_schedule(spec, 1.0, 5), range(6)) for spec in ways)
    assert all(other == first for other in others)
    expected = [function(step if function is schedule_of else step / 5) for step in range(6)]
    assert first == pytest.approx(expected)


def test_registered_schedules_have_parameters(registered):
    spec = {"schedule": registered(schedule_of_fraction), "power": 3}
    DistillationConfig(kd_loss_weight_scheduler=spec)
    assert values(weight_schedule(spec, 1.0, 2), [0, 1, 2]) == [0, 0.125, 1]
    with pytest.raises(UsageError, match="has no parameter 'powr': did you mean 'power'"):
        DistillationConfig(kd_loss_weight_scheduler={"schedule": spec["schedule"], "powr": 3})


def test_textbrewers_x_is_the_fraction_only_where_it_is_registered(registered):
    assert values(weight_schedule(registered(lambda x: x), 1.0, 4), [1]) == [0.25]
    with pytest.raises(UsageError, match="name its argument 'step' .* or 'fraction'"):
        DistillationConfig(kd_loss_weight_scheduler=lambda x: x)


def test_any_other_name_is_stated_at_registration(registered):
    assert values(weight_schedule(registered(lambda t: t, argument="step"), 1.0, 4), [3]) == [3]
    for argument in ({}, {"argument": "epoch"}):
        with pytest.raises(UsageError, match="must say what it takes") as caught:
            register_new("weight_scheduler", "never", lambda t: t, **argument)
        assert "\n" not in str(caught.value)
    assert "never" not in WEIGHT_SCHEDULER


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: 1.0, r"must take \(step or fraction\), but it takes \(\)"),
        (lambda step, rate: 1.0, "needs 'rate'"),
    ],
)
def test_functions_of_another_signature_are_refused_by_the_config(function, says):
    for field in ("temperature", "kd_loss_weight_scheduler"):
        with pytest.raises(UsageError, match=says):
            DistillationConfig(**{field: function})


LINEAR = {"schedule": "linear_schedule", "init_value": 4, "transition_steps": 100}


@pytest.mark.parametrize(
    ("spec", "total", "says"),
    [
        ({**LINEAR, "end_value": 0}, 100, "'linear_schedule' is 0 at step 100: a temperature"),
        ({**LINEAR, "end_value": -4}, 200, "is 0 at step 50"),
        ({**LINEAR, "end_value": 0}, None, "is 0 at step 100"),
        ({"schedule": "linear_decay"}, 50_000, "'linear_decay' is 0 at step 50000"),
        (lambda step: jnp.log(step), 10, "is -inf at step 0"),
        (lambda step: jnp.sqrt(step - 3.0), 10, "is nan at step 0"),
        (lambda step: 4.0 if step < 3 else 2.0, 10, "fails on a traced step .use jnp.where for if"),
        (lambda step: jnp.stack([step, step]), 10, r"must return a scalar, got \(2,\)"),
    ],
)
def test_temperatures_are_checked_over_the_whole_training(spec, total, says):
    config = DistillationConfig(temperature=spec)
    with pytest.raises(UsageError, match=says) as caught:
        make_objective(config, total_steps=total)
    assert "\n" not in str(caught.value)


def test_temperatures_that_stay_positive_while_the_training_lasts_are_taken():
    falling = temperature_schedule({**LINEAR, "end_value": 0}, total_steps=99)
    assert values(falling, [0, 99]) == pytest.approx([4, 0.04])
    assert temperature_schedule(3) == 3


def test_weights_are_finite_over_the_whole_training():
    with pytest.raises(UsageError, match="is inf at step 7: a weight must be finite"):
        weight_schedule(lambda step: 1 / (7.0 - step), 1.0, 10)
    assert values(weight_schedule(lambda step: 1 / (7.0 - step), 1.0, 6), [6]) == [1]
