"""Total losses of distillers, every part and every gradient, against TextBrewer."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import pytest

from jaxbrewer import DistillationConfig, make_objective
from jaxbrewer.forward.adaptors import Outputs, collect

from . import PRECISIONS_OF_RUNS, Case, cases, claims, evaluate

DIFFERENCES = {
    "general/nst_masked": "masked nst and mmd divide by the hidden size, as TextBrewer's main "
    "branch does",
}
CLAIMS = claims(
    [case.name for case in cases("compute_loss")],
    {f"compute_loss/{name}": why for name, why in DIFFERENCES.items()},
)


def adaptor_answer(layout: Mapping, prefix: str, x: Mapping) -> dict:
    """The dict that an adaptor returned: each key one array, or a list of them."""
    return {
        key: x[f"{prefix}/{key}"]
        if count == "bare"
        else [x[f"{prefix}/{key}/{index}"] for index in range(count)]
        for key, count in layout.items()
    }


def teacher_outputs(case: Case, x: Mapping) -> Outputs | tuple[Outputs, ...]:
    layout = case.args["T_layout"]
    if isinstance(layout, Mapping):
        return collect(adaptor_answer(layout, "T", x), "teacher")
    return tuple(
        collect(adaptor_answer(one, f"T{index}", x), "teacher") for index, one in enumerate(layout)
    )


def loss_and_gradients(case: Case, x: Mapping) -> dict:
    objective = make_objective(DistillationConfig.from_dict(case.args["DistillationConfig"]))
    teacher = teacher_outputs(case, x)
    moved = {
        name: array
        for name, array in x.items()
        if name.startswith(("S/", "proj/"))
        and "_mask" not in name
        and not name.endswith("/kernel")
        and jnp.issubdtype(array.dtype, jnp.floating)
    }

    def total(moved):
        inputs = {**x, **moved}
        student = collect(adaptor_answer(case.args["S_layout"], "S", inputs), "student")
        projections: dict = {}
        for name in moved:
            if name.startswith("proj/"):
                _, match, leaf = name.split("/")
                param = {"kernel": moved[name].T} if leaf == "weight" else {leaf: moved[name]}
                projections.setdefault(match, {}).update(param)
        return objective(student, teacher, projections)

    (loss, metrics), gradients = jax.value_and_grad(total, has_aux=True)(moved)
    assert sum(name.startswith("unweighted_") for name in metrics) == len(
        case.args["losses_dict_keys"]
    )
    parts = {f"losses/{name}": metrics[name] for name in case.args["losses_dict_keys"]}
    named = {_gradient_name(case, name): gradient for name, gradient in gradients.items()}
    return {"total_loss": loss, **parts, **named}


def _gradient_name(case: Case, name: str) -> str:
    """The gradient of an input that is not in a list has the number 0."""
    return f"grad/{name}" if f"grad/{name}" in case.outputs else f"grad/{name}/0"


@functools.cache
def computed(precision: str):
    return evaluate(cases("compute_loss"), loss_and_gradients, precision)


@pytest.mark.parametrize("precision", PRECISIONS_OF_RUNS)
@pytest.mark.parametrize("case", cases("compute_loss"), ids=str)
def test_totals_and_terms_are_textbrewers(case: Case, precision: str):
    result = computed(precision)[case.name]
    assert {name for name in case.outputs if not name.endswith("__master")} == result.keys()
    for name, actual in result.items():
        assert actual.dtype == precision, name
        case.outputs.get(f"{name}__master", case.outputs[name]).check(actual, name)


def test_all_cases_are_accounted_for():
    names = [str(case) for case in cases("compute_loss")]
    families = [name.split("/")[0] for name in names]
    counts = {family: families.count(family) for family in dict.fromkeys(families)}
    assert counts == {"basic": 14, "general": 11, "multiteacher": 3}
    differing = {str(case) for case in cases("compute_loss") if case.spec["differs_in_master"]}
    assert differing == DIFFERENCES.keys()
