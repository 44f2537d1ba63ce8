"""Shift, selection, temperatures, schedules and projections against plain Python, for any input.

Shapes are fixed, so that each function is compiled once per dtype; values, masks and labels vary.
"""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from jaxbrewer.objective.logit_masks import pair_selected, probability_shift
from jaxbrewer.objective.projections import apply_projection
from jaxbrewer.objective.schedules import weight_schedule
from jaxbrewer.objective.temperature_rules import temperature_rule
from jaxbrewer.registry import PROJ_MAP

BATCH, LENGTH, CLASSES = 2, 3, 4
halves = st.integers(-6, 6).map(lambda n: n / 2)  # exact in every dtype, with many ties
logits = arrays(np.float32, (BATCH, LENGTH, CLASSES), elements=halves)
labels = arrays(np.int32, (BATCH, LENGTH), elements=st.integers(-3, CLASSES + 1))
masks = arrays(np.float32, (BATCH, LENGTH), elements=st.sampled_from([0, 0.25, 1]))
dtypes = st.sampled_from(["float32", "bfloat16", "float16"])
mask_dtypes = st.sampled_from(["bool", "int32", "float32", "bfloat16"])

shift = jax.jit(probability_shift)
pair = jax.jit(pair_selected)
pair_by_rank = jax.jit(functools.partial(pair_selected, pairing="rank"))


@pytest.mark.slow
@settings(max_examples=60)
@given(logits, labels, masks, dtypes, mask_dtypes)
def test_shift_swaps_two_logits_of_each_row(values, label, mask, dtype, mask_dtype):
    mask = np.asarray(mask != 0 if mask_dtype in ("bool", "int32") else mask)
    shifted = np.asarray(shift(values.astype(dtype), label, jnp.asarray(mask, mask_dtype)), float)
    for at in np.ndindex(BATCH, LENGTH):
        row, target = values[at].tolist(), label[at]
        if mask[at] and 0 <= target < CLASSES:
            largest = row.index(max(row))
            row[largest], row[target] = row[target], row[largest]
            assert shifted[at][target] == max(row)
        assert shifted[at].tolist() == row


@settings(max_examples=60)
@given(logits, masks, masks)
def test_positions_are_compared_where_both_masks_select_them(values, mask_S, mask_T):
    paired, compared = map(np.asarray, pair(values, mask_S, mask_T))
    np.testing.assert_array_equal(compared, (mask_S != 0) & (mask_T != 0))
    np.testing.assert_array_equal(paired, values)


@settings(max_examples=60)
@given(logits, masks, masks)
def test_positions_paired_by_rank_keep_their_order_in_each_example(values, mask_S, mask_T):
    paired, compared = map(np.asarray, pair_by_rank(values, mask_S, mask_T))
    for row in range(BATCH):
        chosen, places = values[row][mask_T[row] != 0], np.flatnonzero(mask_S[row])
        count = min(len(chosen), len(places))
        np.testing.assert_array_equal(np.flatnonzero(compared[row]), places[:count])
        np.testing.assert_array_equal(paired[row][places[:count]], chosen[:count])


@settings(max_examples=60)
@given(logits, masks)
def test_one_mask_for_both_moves_nothing(values, mask):
    for paired, compared in (
        pair(values, mask, None),
        pair(values, None, mask),
        pair(values, mask, mask),
    ):
        np.testing.assert_array_equal(paired, values)
        np.testing.assert_array_equal(np.asarray(compared) != 0, mask != 0)


RULES = {
    "flsw": jax.jit(temperature_rule(["flsw", 1.5, 2])),
    "cwsm": jax.jit(temperature_rule(["cwsm", 0.5])),
}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=40)
@given(logits, logits, masks, st.sampled_from([0.5, 1.0, 4.0]))
def test_temperatures_are_positive_and_ignore_padding(name, student, teacher, mask, base):
    tau = np.asarray(RULES[name](student, teacher, base, mask))
    assert tau.shape == (BATCH, LENGTH)
    assert (tau >= np.float32(0.01)).all()
    padding = np.where((mask != 0)[..., None], 0, np.nan).astype(np.float32)
    again = np.asarray(RULES[name](student + padding, teacher - padding, base, mask))
    valid = mask != 0
    np.testing.assert_array_equal(again[valid], tau[valid])
    if valid.any() and (tau[valid] > 0.011).all():  # the floor moves the mean
        np.testing.assert_allclose(tau[valid].mean(), base, rtol=1e-4)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.sampled_from(["linear_decay", "linear_growth"]), st.integers(1, 40), st.integers(0, 60))
def test_weights_run_from_one_end_to_the_other(name, total, step):
    weight = weight_schedule(name, 0.3, total)
    grown = min(step / total, 1)
    expected = grown if name == "linear_growth" else 1 - grown
    assert float(weight(step)) == pytest.approx(expected, abs=1e-6)
    assert float(weight(0)) == (name == "linear_decay")


project = {
    name: jax.jit(lambda p, x, f=f: apply_projection(p, x, f)) for name, f in PROJ_MAP.items()
}
ACTIVATIONS = {"linear": lambda y: y, "relu": lambda y: np.maximum(y, 0), "tanh": np.tanh}


@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=20)
@given(
    arrays(np.float32, (CLASSES, 2), elements=halves),
    arrays(np.float32, 2, elements=halves),
    logits,
    dtypes,
)
def test_projections_are_the_map_and_its_activation(name, kernel, bias, x, dtype):
    y = project[name]({"kernel": kernel, "bias": bias}, x.astype(dtype))
    assert y.dtype == dtype
    expected = ACTIVATIONS[name](x.astype(float) @ kernel + bias)
    tolerance = {"float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    np.testing.assert_allclose(np.asarray(y, float), expected, rtol=tolerance, atol=tolerance)
