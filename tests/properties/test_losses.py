"""Every registered loss over any numbers, masks, lengths and dtypes.

``tests/losses/test_contract.py`` has one batch whose padding is at the end; here masks have holes,
vectors are zero or alike, and logits are up to 100. There are few shapes, each compiled once.
"""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from jaxbrewer.losses import add_means
from jaxbrewer.testing._subject import PADDING, Subject
from tests.losses.test_contract import NAMES, claims_of, loss_of
from tests.tiers import exhaustive_but

BATCH, LENGTH, WIDTH = 3, 3, 4
SHAPES = {
    "logits": (BATCH, LENGTH, WIDTH),
    "hidden": (BATCH, LENGTH, WIDTH),
    "attention": (BATCH, 2, LENGTH, LENGTH),
    "pair": (2, BATCH, LENGTH, WIDTH),
}
PARAMETERS = {"minilm_relation": {"heads": 2}, "jsd": {"beta": 0.2}}
ONE_OF_EACH_KIND = ("kl", "dkd", "hidden_mse", "attention_ce", "fsp")
"""Logits, with labels, hidden states, attention, pairs; the contract has every loss."""
NUMBERS = [-3, -1, -0.5, 0, 0.5, 1, 3]  # exact in every dtype


@functools.cache
def subject_of(name):
    return Subject(loss_of(name), claims_of(name)["inputs"], PARAMETERS.get(name, {}), None, None)


@st.composite
def batches(draw, subject):
    """Numbers for both models, labels if the loss takes them, and a mask with holes."""
    large = [] if subject.kind == "attention" else [-100, 100]  # scores of -50 mean padding
    values = arrays(np.float32, SHAPES[subject.kind], elements=st.sampled_from(NUMBERS + large))
    drawn = {who: draw(values) for who in ("student", "teacher")}
    batch = {who: list(x) if subject.kind == "pair" else x for who, x in drawn.items()}
    mask_dtype = draw(st.sampled_from([np.bool_, np.int32, np.float32, jnp.bfloat16]))
    batch["mask"] = draw(arrays(np.bool_, (BATCH, LENGTH))).astype(mask_dtype)
    if subject.takes("labels"):
        batch["labels"] = draw(arrays(np.int32, (BATCH, LENGTH), elements=st.integers(-2, 3)))
    return subject.filled(batch, PADDING[subject.kind])


@pytest.mark.slow
@pytest.mark.parametrize("name", exhaustive_but(ONE_OF_EACH_KIND, NAMES))
def test_numbers_are_finite_exact_and_blind_to_padding(name):
    subject = subject_of(name)

    @settings(max_examples=25)
    @given(batches(subject), st.sampled_from([jnp.bfloat16, jnp.float16]))
    def check(batch, half):
        value, slope = subject.value_and_grad(batch)
        assert value.dtype == np.float32
        assert all(map(np.all, jax.tree.map(np.isfinite, [value, slope])))

        garbage = subject.filled(batch, np.nan)
        close = {"rtol": 1e-6, "atol": 1e-6}
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, **close),
            subject.value_and_grad(garbage),
            (value, slope),
        )
        np.testing.assert_allclose(
            subject.value(subject.as_dtype(batch, half)), value, rtol=1e-6, atol=1e-6
        )
        with jax.enable_x64(True):
            exact = subject.value(subject.as_dtype(batch, jnp.float64))
            assert exact.dtype == np.float64
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-5)

    check()


def alone(batch, example, length):
    """One example of a batch, cut to its length: without padding."""

    def cut(x):
        x = x[example : example + 1]
        return x[..., :length, :length] if x.ndim == 4 else x[:, :length]

    return {**jax.tree.map(cut, batch), "mask": np.ones((1, length), np.int32)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", exhaustive_but(ONE_OF_EACH_KIND, [x for x in NAMES if claims_of(x)["splits"]])
)
def test_a_padded_batch_is_its_examples_one_by_one(name):
    subject = subject_of(name)
    lengths = st.lists(st.integers(1, LENGTH), min_size=BATCH, max_size=BATCH)

    @settings(max_examples=15)
    @given(batches(subject), lengths)
    def check(batch, lengths):
        mask = np.arange(LENGTH) < np.array(lengths)[:, None]
        padded = subject.filled({**batch, "mask": mask}, np.nan)
        each = (subject.parts(alone(batch, *example)) for example in enumerate(lengths))
        total, count = add_means(*each)
        whole = subject.parts(padded)
        np.testing.assert_allclose(whole.count, count)
        np.testing.assert_allclose(whole.total, total, rtol=1e-5, atol=1e-5)

    check()
