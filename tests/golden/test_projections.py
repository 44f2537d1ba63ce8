"""Projections against TextBrewer."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxbrewer.objective.projections import apply_projection, init_projection
from jaxbrewer.registry import PROJ_MAP

from . import PRECISIONS, Case, cases, claims, evaluate

MAPS = [case for case in cases("projections") if not case.spec.get("property_only")]
CLAIMS = claims([case.name for case in cases("projections")], {})
PROPERTIES = [case for case in cases("projections") if case.spec.get("property_only")]


def output_and_gradients(case: Case, x):
    def project(params, states):
        return apply_projection(params, states, PROJ_MAP[case.args["key"]])

    params = {"kernel": x["kernel"], "bias": x["bias"]}
    y, pull = jax.vjp(project, params, x["x"])
    grads, grad_x = pull(x["cotangent"])
    return {
        "y": y,
        "grad_x": grad_x,
        "grad_weight": grads["kernel"].T,
        "grad_bias": grads["bias"],
    }


@functools.cache
def computed(precision: str):
    return evaluate(MAPS, output_and_gradients, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", MAPS, ids=str)
def test_projections_are_textbrewers(case: Case, precision: str):
    for name, actual in computed(precision)[case.name].items():
        assert actual.dtype == precision
        case.outputs[name].check(actual, name)


@pytest.mark.parametrize("case", PROPERTIES, ids=str)
def test_initial_kernels_have_textbrewers_spread(case: Case):
    args = case.args
    params = init_projection(jax.random.key(0), args["dim_in"], args["dim_out"])
    assert abs(params["kernel"].mean()) < 1e-3
    assert abs(params["kernel"].std() - args["expected_std"]) < 1e-3
    assert jnp.all(params["bias"] == 0)
