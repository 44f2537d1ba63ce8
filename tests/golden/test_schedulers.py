"""Weight schedules and temperature rules against TextBrewer."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer.objective.temperature_rules import temperature_rule
from jaxbrewer.registry import WEIGHT_SCHEDULER

from . import PRECISIONS, Case, cases, claims, evaluate

RULES = [case for case in cases("schedulers") if "builder" in case.args]
WEIGHTS = [case for case in cases("schedulers") if "builder" not in case.args]
FLOOR = 0.01

CLAIMS = claims(
    [case.name for case in cases("schedulers")],
    {
        f"schedulers/{name}": f"no temperature is below {FLOOR}, where TextBrewer's may be 0 or "
        "negative; equal above it"
        for name in ("flsw_dict", "flsw_eps")
    },
)


def temperatures(case: Case, x):
    base = case.args["base_temperature"]
    dtype = x["logits_S"].dtype
    rule = temperature_rule(case.args["builder"])
    tau = jnp.asarray(rule(x["logits_S"], x["logits_T"], base), dtype)
    return {"tau": tau, "mean_tau": tau.mean()}


@functools.cache
def computed(precision: str):
    return evaluate(RULES, temperatures, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", RULES, ids=str)
def test_temperatures_are_textbrewers(case: Case, precision: str):
    result = computed(precision)[case.name]
    for name in ("tau", "mean_tau"):
        assert result[name].dtype == precision
        if CLAIMS[case.name].kind == "equal":
            case.outputs[name].check(result[name], name)


@pytest.mark.parametrize("case", RULES, ids=str)
def test_temperature_has_a_floor(case: Case):
    """Differs on purpose: TextBrewer's temperatures may be 0 or negative, ours may not."""
    result = computed("float64")[case.name]
    np.testing.assert_allclose(result["tau"], np.maximum(case.outputs["tau"].float64, FLOOR))


def test_some_case_needs_the_floor():
    assert {case.name for case in RULES if case.outputs["tau"].float64.min() < FLOOR} == {
        name for name, claim in CLAIMS.items() if claim.kind == "differs"
    }


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", WEIGHTS, ids=str)
def test_weights_are_textbrewers(case: Case, precision: str):
    function = WEIGHT_SCHEDULER[case.args["key"]]
    result = evaluate([case], lambda case, x: function(x["x"]), precision)[case.name]
    assert result.dtype == precision
    case.outputs["value"].check(result)
