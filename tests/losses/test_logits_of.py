"""LogitsOf: the logits of hidden states and a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.losses import LogitsOf

RNG = np.random.default_rng(0)
HIDDEN = np.float32(RNG.normal(size=(2, 3, 4)))
KERNEL = np.float32(RNG.normal(size=(4, 5)))
BIAS = np.float32(RNG.normal(size=5))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_logits_are_those_of_the_head(tied, bias, softcap):
    kernel = KERNEL.T.copy() if tied else KERNEL
    given = LogitsOf(HIDDEN, kernel, bias, softcap=softcap, scale=0.5, tied=tied)
    expected = 0.5 * (HIDDEN.astype(np.float64) @ KERNEL + (0 if bias is None else bias))
    if softcap is not None:
        expected = softcap * np.tanh(expected / softcap)
    np.testing.assert_allclose(given.logits(), expected, rtol=1e-5, atol=1e-6)
    assert given.shape == expected.shape
    assert given.ndim == 3


def test_half_precision_is_accumulated_in_float32():
    hidden, kernel = np.ones((1, 4096)), np.full((4096, 2), 1.0)
    half = LogitsOf(jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16))
    logits = jb.LogitsOf(half.hidden * jnp.bfloat16(1.0078125), half.kernel).logits()
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, np.full((1, 2), 4096 * 1.0078125))


@pytest.mark.slow
def test_a_bias_of_minus_infinity_rules_a_class_out_under_a_softcap():
    bias = np.where(np.arange(5) == 3, -np.inf, BIAS).astype(np.float32)

    def total(hidden):
        logits = LogitsOf(hidden, KERNEL, bias, softcap=2.0).logits()
        return jax.nn.log_softmax(logits)[..., 0].sum(), logits

    gradient, logits = jax.grad(total, has_aux=True)(HIDDEN)
    assert np.isneginf(logits[..., 3]).all()
    assert np.isfinite(np.delete(logits, 3, axis=-1)).all()
    assert np.isfinite(gradient).all()


def test_an_adaptor_may_return_them():
    outputs = collect({"logits": LogitsOf(HIDDEN, KERNEL), "labels": np.zeros((2, 3), int)}, "S")
    assert isinstance(outputs.logits[0], LogitsOf)
    assert isinstance(outputs.logits[0].kernel, jax.Array)
    assert jax.tree.structure(outputs) == jax.tree.structure(jax.tree.map(jnp.zeros_like, outputs))
    heads = collect({"logits": [LogitsOf(HIDDEN, KERNEL), jnp.zeros((2, 3))]}, "S").logits
    assert [head.shape for head in heads] == [(2, 3, 5), (2, 3)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LogitsOf(HIDDEN, KERNEL, softcap=0), ["softcap", "above 0", "got 0"]),
        (lambda: LogitsOf(HIDDEN, KERNEL, scale="2"), ["scale", "'2'"]),
        (
            lambda: collect({"logits": LogitsOf(HIDDEN, KERNEL.T)}, "student"),
            ["student's logits", "(5, 4)", "(2, 3, 4)", "tied=True"],
        ),
        (
            lambda: collect({"logits": LogitsOf(HIDDEN, KERNEL, tied=True)}, "student"),
            ["(4, 5)", "tied=False"],
        ),
        (
            lambda: collect({"logits": LogitsOf(HIDDEN, KERNEL, BIAS[:3])}, "student"),
            ["bias", "(5,)", "(3,)"],
        ),
        (
            lambda: collect({"logits": LogitsOf(HIDDEN, HIDDEN)}, "teacher"),
            ["teacher's logits", "matrix"],
        ),
        (
            lambda: collect(
                {"logits": LogitsOf(HIDDEN, KERNEL), "inputs_mask": np.ones((3, 3))}, "student"
            ),
            ["inputs_mask", "2 examples"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(make, words):
    with pytest.raises(jb.UsageError) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
