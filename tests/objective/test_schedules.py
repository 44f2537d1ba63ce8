import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbrewer import UsageError
from jaxbrewer.objective.schedules import weight_schedule
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
        ("linear_decay", "'linear_decay' needs the number of optimizer updates: give num_steps"),
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
