"""What every loss keeps to, whatever it compares."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jax.test_util import check_grads
from jaxtyping import jaxtyped

from jaxbrewer import losses
from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP

from . import MASK, SPECS, Spec

ALL = pytest.mark.parametrize("spec", SPECS, ids=str)
ONES = np.ones_like(MASK)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_every_registered_loss_is_here():
    registered = {loss for table in (KD_LOSS_MAP, MATCH_LOSS_MAP) for loss in table.values()}
    assert registered == {spec.loss for spec in SPECS}


@ALL
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_what_padding_holds_changes_nothing(spec: Spec, fill: float):
    student, teacher = spec.inputs()
    expected = spec.value_and_grad(student, teacher, MASK)
    assert expected[0] != 0
    assert_close(
        spec.value_and_grad(spec.padded(student, fill), spec.padded(teacher, fill), MASK), expected
    )


@ALL
def test_padding_gets_no_gradient(spec: Spec):
    _, gradient = spec.value_and_grad(*spec.inputs(), MASK)
    for leaf in jax.tree.leaves(gradient):
        assert not np.any(np.where(spec.belongs(MASK, leaf.ndim), 0, leaf))


@ALL
def test_more_padding_changes_nothing(spec: Spec):
    def extend(x):
        length_axes = (2, 3) if spec.kind == "attention" else (1,)
        widths = [(0, 2 if axis in length_axes else 0) for axis in range(x.ndim)]
        return np.pad(x, widths, constant_values=np.nan)

    longer = jax.tree.map(extend, spec.inputs())
    value, _ = spec.value_and_grad(*longer, np.pad(MASK, ((0, 0), (0, 2))))
    assert_close(value, spec.value_and_grad(*spec.inputs(), MASK)[0])


@ALL
def test_parts_of_a_batch_add_up(spec: Spec):
    student, teacher = spec.inputs()
    example = jax.jit(jax.vmap(lambda s, t, mask: spec.loss.sum_and_count(s, t, mask=mask)))
    parts = jax.device_get(example(*jax.tree.map(lambda x: x[:, None], (student, teacher, MASK))))
    for uneven in ([0], [1, 2, 3]), ([0, 1], [2, 3]), ([0], [1], [2], [3]):
        means = [losses.Mean(parts.total[rows].sum(), parts.count[rows].sum()) for rows in uneven]
        whole = losses.add_means(*means)
        assert_close(whole.value(), spec.value_and_grad(student, teacher, MASK)[0])
    assert parts.total[3] == parts.count[3] == 0  # the empty example does not count


@ALL
def test_parts_without_a_mask_add_up(spec: Spec):
    student, teacher = spec.inputs()
    example = jax.jit(jax.vmap(lambda s, t: spec.loss.sum_and_count(s, t)))
    parts = example(*jax.tree.map(lambda x: x[:, None], (student, teacher)))
    whole = losses.Mean(parts.total.sum(), parts.count.sum())
    assert_close(whole.value(), jax.jit(spec.loss)(student, teacher))


@ALL
def test_an_empty_mask_gives_zero(spec: Spec):
    value, gradient = spec.value_and_grad(*spec.inputs(), np.zeros_like(MASK))
    assert value == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@ALL
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_zero_vectors_are_finite(spec: Spec, zero: str):
    student, teacher = spec.inputs()
    if zero != "teacher":
        student = jax.tree.map(np.zeros_like, student)
    if zero != "student":
        teacher = jax.tree.map(np.zeros_like, teacher)
    value, gradient = spec.value_and_grad(student, teacher, MASK)
    assert_finite((value, gradient))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 100


@ALL
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_ties_and_large_numbers_are_finite(spec: Spec, scale: float):
    student, teacher = jax.tree.map(lambda x: np.sign(x) * np.float32(scale), spec.inputs())
    assert_finite(spec.value_and_grad(student, teacher, MASK))


@ALL
def test_equality_is_the_least(spec: Spec):
    student, teacher = spec.inputs()
    least, gradient = spec.value_and_grad(teacher, teacher, MASK)
    if spec.least is not None:
        assert_close(least, spec.least)
    assert_close(gradient, jax.tree.map(np.zeros_like, gradient))
    assert least < spec.value_and_grad(student, teacher, MASK)[0]


@ALL
def test_a_mask_of_ones_is_no_mask(spec: Spec):
    """Lesson F13: with a mask another divisor was used, and the loss grew with the width."""
    inputs = jax.tree.map(np.abs, spec.inputs())  # without a mask, negative scores are padding
    plain = jax.jit(spec.loss.sum_and_count)(*inputs)
    masked = jax.jit(lambda s, t, m: spec.loss.sum_and_count(s, t, mask=m))(*inputs, ONES)
    assert_close(masked, plain)


@ALL
def test_every_kind_of_mask_is_the_same_mask(spec: Spec):
    inputs = spec.inputs()
    expected = spec.value_and_grad(*inputs, MASK)
    for dtype in (bool, np.uint8, jnp.bfloat16, np.float32):
        assert_close(spec.value_and_grad(*inputs, MASK.astype(dtype)), expected)


@ALL
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_inputs_are_compared_in_float32(spec: Spec, dtype):
    """Lesson F12: differences of half precision numbers lost the loss itself."""
    noise, teacher = jax.tree.map(lambda x: jnp.asarray(x, dtype), spec.inputs())
    student = jax.tree.map(lambda x, y: y + x / 8, noise, teacher)
    value, gradient = spec.value_and_grad(student, teacher, MASK)
    assert value.dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (student, teacher))
        truth, true_gradient = spec.value_and_grad(*exact, MASK)
    assert truth.dtype == np.float64
    assert_close(value, truth, rtol=1e-5, atol=1e-7)
    step = float(jnp.finfo(dtype).eps)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(true_gradient))
    as_float = jax.tree.map(np.float64, gradient)
    assert_close(as_float, true_gradient, rtol=step, atol=step * float(largest))


@ALL
def test_gradients_of_student_and_teacher(spec: Spec):
    """Against finite differences, in float64, with a mask."""
    student, teacher = spec.inputs()
    if spec.kind == "attention":  # -1e4 is too coarse a number to differentiate at
        student, teacher = spec.padded(student, -50.0), spec.padded(teacher, -50.0)
    with jax.enable_x64(True):
        inputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (student, teacher))
        loss = jax.jit(lambda s, t: spec.loss(s, t, mask=MASK))
        check_grads(loss, inputs, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@ALL
def test_the_order_of_examples_changes_nothing(spec: Spec):
    student, teacher = spec.inputs()
    moved = jax.tree.map(lambda x: x[[2, 0, 3, 1]], (student, teacher, MASK))
    value, gradient = spec.value_and_grad(student, teacher, MASK)
    expected = value, jax.tree.map(lambda x: x[[2, 0, 3, 1]], gradient)
    assert_close(spec.value_and_grad(*moved), expected)


@ALL
def test_annotations_are_true(spec: Spec):
    checked = jaxtyped(typechecker=beartype)(spec.loss.sum_and_count)
    student, teacher, mask = jax.tree.map(jnp.asarray, (*spec.inputs(), MASK))
    jax.eval_shape(lambda s, t, m: checked(s, t, mask=m), student, teacher, mask)
    jax.eval_shape(checked, student, teacher)


@ALL
def test_signature_is_textbrewers(spec: Spec):
    """The objective calls every loss of a table in one way."""
    names = list(inspect.signature(spec.loss).parameters)
    if spec.kind == "logits":
        assert names == ["logits_S", "logits_T", "temperature", "mask"]
    else:
        assert [name[-2:] for name in names[:2]] == ["_S", "_T"]
        assert names[2:] == ["mask"]
