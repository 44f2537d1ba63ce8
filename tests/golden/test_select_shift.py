"""Probability shift, and masks over logits, against TextBrewer."""

import functools

import jax
import numpy as np
import pytest

from jaxbrewer.objective.logit_masks import pair_selected, probability_shift
from jaxbrewer.registry import KD_LOSS_MAP

from . import PRECISIONS, Case, cases, claims, evaluate

SHIFTS = [case for case in cases("select_shift") if case.function == "probability_shift_"]
SELECTIONS = [case for case in cases("select_shift") if case not in SHIFTS]
CLAIMS = claims([case.name for case in cases("select_shift")], {})


@functools.cache
def shifted(precision: str):
    return evaluate(SHIFTS, lambda _, x: probability_shift(x["logits_T"], x["labels"]), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", SHIFTS, ids=str)
def test_shifted_logits_are_textbrewers(case: Case, precision: str):
    result = shifted(precision)[case.name]
    assert result.dtype == precision
    case.outputs["shifted"].check(result)


def distil_selected(case: Case, x):
    heads = [str(head) for head in range(case.args["num_heads"])]
    masks = [(x[f"mask_S{head}"], x[f"mask_T{head}"]) for head in heads]
    pairs = [pair_selected(x[f"T{head}"], *mask) for head, mask in zip(heads, masks, strict=True)]

    def value(students):
        loss = KD_LOSS_MAP[case.args["kd_loss_type"]]
        return sum(
            loss(student, teacher, case.args["temperature"], mask)
            for student, (teacher, mask) in zip(students, pairs, strict=True)
        )

    loss, gradients = jax.value_and_grad(value)([x[f"S{head}"] for head in heads])
    return {"kd_value": loss, "pairs": pairs} | {
        f"grad_S{head}": gradient for head, gradient in zip(heads, gradients, strict=True)
    }


@functools.cache
def selected(precision: str):
    return evaluate(SELECTIONS, distil_selected, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", SELECTIONS, ids=str)
def test_selected_logits_are_textbrewers(case: Case, precision: str):
    result = dict(selected(precision)[case.name])
    for head, (teacher, mask) in enumerate(result.pop("pairs")):
        student = case.inputs[f"S{head}"]
        rows = np.ones(len(student), bool) if mask is None else np.asarray(mask) != 0
        case.outputs[f"selected_S{head}"].check(student[rows])
        case.outputs[f"selected_T{head}"].check(np.asarray(teacher)[rows])
    for name, actual in result.items():
        assert actual.dtype == precision
        case.outputs[name].check(actual, name)
