"""Every loss, value and gradient, against TextBrewer."""

import functools

import jax
import numpy as np
import pytest

from jaxbrewer import losses
from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP

from . import PRECISIONS, Case, cases, claims, evaluate

MASKED_MMD = "masked nst and mmd divide by the hidden size, as TextBrewer's main branch does"
CLAIMS = claims(
    [case.name for case in cases("losses")],
    {case.name: MASKED_MMD for case in cases("losses") if case.spec["differs_in_master"]},
)
FUNCTIONS = sorted({case.function for case in cases("losses")})


def value_and_gradients(case: Case, x):
    students = sorted(name for name in x if name.startswith("S"))
    teacher = [x[name] for name in sorted(x) if name.startswith("T")]
    options = {name: x[name] for name in ("temperature", "mask") if name in x}
    if "temperature" not in options and "temperature" in case.args:
        options["temperature"] = case.args["temperature"]

    def value(student):
        loss = getattr(losses, case.function)
        if case.args["tied"]:
            return loss(student * 2, teacher * 2, **options)
        if "S0" in x:
            return loss(student, teacher, **options)
        return loss(student[0], teacher[0], **options)

    loss, gradients = jax.value_and_grad(value)([x[name] for name in students])
    named = {f"grad_{name}": g for name, g in zip(students, gradients, strict=True)}
    return {"value": loss, **named}


@functools.cache
def computed(function: str, precision: str):
    group = [case for case in cases("losses") if case.function == function]
    return evaluate(group, value_and_gradients, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", cases("losses"), ids=str)
def test_values_and_gradients_are_textbrewers(case: Case, precision: str):
    result = computed(case.function, precision)[case.name]
    release = {name for name in case.outputs if not name.endswith("__master")}
    assert result.keys() == release
    for name, actual in result.items():
        assert actual.dtype == precision
        if CLAIMS[case.name].kind == "equal":
            case.outputs[name].check(actual, name)
        else:
            case.outputs[f"{name}__master"].check(actual, name)
            assert not np.allclose(actual, case.outputs[name].float64, rtol=1e-3)


@pytest.mark.parametrize("case", cases("losses"), ids=str)
def test_names_in_configs_mean_the_same_loss(case: Case):
    for key in case.args["registry_key"].split(" / "):
        table = KD_LOSS_MAP if case.function.startswith("kd_") else MATCH_LOSS_MAP
        assert table[key] is getattr(losses, case.function)


def test_only_masked_mmd_differs_from_the_release():
    differing = [name for name, claim in CLAIMS.items() if claim.kind == "differs"]
    assert differing == ["losses/mmd/mask", "losses/mmd/tied_mask"]
