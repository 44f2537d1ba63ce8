"""Padded vocabularies: cut or ruled out, never filled with zeros; real mismatches are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer import losses
from jaxbrewer.forward.adaptors import collect

RNG = np.random.default_rng(0)
WIDE = 1_088
NARROW = 1_080  # the true vocabulary of both; the wide one is padded to a multiple of 64
LOGITS = {width: RNG.normal(size=(4, width)).astype("f") for width in (NARROW, WIDE)}


def objective(**fields):
    return jb.make_objective(jb.DistillationConfig(temperature=2, **fields))


def outputs(logits):
    return collect({"logits": logits}, "model")


def loss(student, teacher, **fields):
    return objective(**fields)(outputs(student), outputs(teacher), {})[0]


@pytest.mark.slow
@pytest.mark.parametrize("places", [(4,), (2, 2)])
def test_the_teachers_padding_is_cut_off_with_a_notice(places):
    student, teacher = LOGITS[NARROW].reshape(*places, -1), LOGITS[WIDE].reshape(*places, -1).copy()
    teacher[..., NARROW:] = 50  # arbitrary values in columns without a token
    with pytest.warns(
        UserWarning,
        match="student has 1080 columns, the teacher 1088: the last 8 are taken for padding",
    ):
        actual = loss(student, teacher)
    np.testing.assert_allclose(actual, losses.kd_ce_loss(student, teacher[..., :NARROW], 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ce", "kl", "mse", "reverse_kl"])
def test_the_students_padded_classes_are_ruled_out(kind):
    """Lesson C: Liger fills with 0, which counts as a logit."""
    student, teacher = LOGITS[WIDE].copy(), LOGITS[NARROW]
    actual = loss(student, teacher, kd_loss_type=kind, vocabulary="common")
    assert np.isfinite(actual)
    student[:, NARROW:] += 5  # mass on columns without a token
    punished = loss(student, teacher, kd_loss_type=kind, vocabulary="common")
    assert (punished > actual) if kind in ("ce", "kl") else (punished == actual)
    if kind == "ce":
        padded = np.pad(teacher, ((0, 0), (0, WIDE - NARROW)), constant_values=-np.inf)
        np.testing.assert_allclose(punished, losses.kd_ce_loss(student, jnp.array(padded), 2))


@pytest.mark.parametrize("places", [(4,), (2, 2)])
def test_teachers_of_different_padding_are_averaged(places):
    student, wide, narrow = (
        z.reshape(*places, -1) for z in (LOGITS[NARROW], LOGITS[WIDE], LOGITS[NARROW] * 2)
    )
    mean = (wide[..., :NARROW] + narrow) / 2
    expected = losses.kd_ce_loss(student, mean, 2)
    config = objective(vocabulary="common")
    for teachers in ((wide, narrow), (narrow, wide)):
        actual, _ = config(outputs(student), tuple(map(outputs, teachers)), {})
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_an_average_has_the_columns_that_all_teachers_have():
    student, wide, narrow = LOGITS[WIDE], LOGITS[WIDE] * 2, LOGITS[NARROW]
    mean = (wide[:, :NARROW] + narrow) / 2
    config = objective(vocabulary="common", kd_loss_type="mse")
    actual, _ = config(outputs(student), tuple(map(outputs, (wide, narrow))), {})
    np.testing.assert_allclose(actual, losses.kd_mse_loss(student[:, :NARROW], mean, 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "rule"),
    [
        (5, 6, "auto"),  # classes
        (100, 101, "auto"),  # under 1 %, but few
        (1_080, 1_087, "auto"),  # not up to a multiple of 64
        (1_024, 1_152, "auto"),  # too many
        (NARROW, WIDE, "equal"),
    ],
)
def test_a_real_mismatch_is_refused_with_an_explanation(student, teacher, rule):
    with pytest.raises(jb.UsageError, match="same classes.*vocabulary='common'") as error:
        loss(np.zeros((2, student), "f"), np.zeros((2, teacher), "f"), vocabulary=rule)
    assert str(student) in str(error.value)
    assert str(teacher) in str(error.value)


def test_an_unknown_vocabulary_rule_is_refused():
    with pytest.raises(jb.UsageError, match="DistillationConfig.vocabulary 'pad'"):
        jb.DistillationConfig(vocabulary="pad")
