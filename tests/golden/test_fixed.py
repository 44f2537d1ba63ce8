"""Inputs that TextBrewer documents but cannot run, against its own equivalent call."""

import functools

import jax
import pytest

from jaxbrewer import losses
from jaxbrewer.objective.logit_masks import pair_selected, probability_shift
from jaxbrewer.registry import KD_LOSS_MAP

from . import PRECISIONS, Case, cases, claims, evaluate

CLAIMS = claims([case.name for case in cases("fixed")], {})


def loss_of(case: Case, x, students):
    op, temperature = case.args["op"], x.get("temperature", case.args["temperature"])
    if op == "att":
        return getattr(losses, case.function)(students[0], x["T"], x["mask"])
    kd_loss = KD_LOSS_MAP[case.args["kd_loss_type"]]
    if op == "temperature":
        return kd_loss(students[0], x["T"], temperature)
    total = 0.0
    for head, student in enumerate(students):
        teacher = x["T"] if "T" in x else x[f"T{head}"]
        teacher, mask = pair_selected(teacher, x["mask"], None)
        if op == "shift_select":
            teacher = probability_shift(teacher, x["labels"], mask)
        total = total + kd_loss(student, teacher, temperature, mask)
    return total


def outputs_of(case: Case, x):
    if case.args["op"] == "shift2d":
        return {"shifted": probability_shift(x["T"], x["labels"])}
    students = sorted(name for name in x if name.startswith("S"))
    value, gradients = jax.value_and_grad(lambda s: loss_of(case, x, s))([x[s] for s in students])
    named = {f"grad_{name}": g for name, g in zip(students, gradients, strict=True)}
    return {"value": value, **named}


@functools.cache
def computed(precision: str):
    return evaluate(cases("fixed"), outputs_of, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", cases("fixed"), ids=str)
def test_corrected_values_equal_the_recomputed_ones(case: Case, precision: str):
    result = computed(precision)[case.name]
    assert set(result) == set(case.outputs)
    for name, actual in result.items():
        assert actual.dtype == precision
        case.outputs[name].check(actual, name)
