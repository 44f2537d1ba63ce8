"""A layer in both models: the teacher is never changed."""

import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from tests.toys import NnxMLP, logits_adaptor, quiet, vector_data

DATA = vector_data(8)


def pair(layer="first"):
    teacher, student = NnxMLP(3, 4, norm=True), NnxMLP(3, 4, norm=True, seed=1)
    setattr(student, layer, getattr(teacher, layer))
    return teacher, student


def distiller(teacher, student, kind=jb.BasicDistiller):
    config = jb.DistillationConfig()
    return kind(quiet(), config, teacher, student, logits_adaptor, logits_adaptor)


@pytest.mark.parametrize("layer", ["first", "norm"])
def test_a_layer_that_would_move_in_the_teacher_is_refused(layer):
    teacher, student = pair(layer)
    with pytest.raises(jb.UsageError, match=rf"share variables, {layer}\..*nnx.clone"):
        distiller(teacher, student)
    with pytest.raises(jb.UsageError, match="share variables"):
        distiller([NnxMLP(3, 4), teacher], student, jb.MultiTeacherDistiller)
    with pytest.raises(jb.UsageError, match="share variables"):
        jb.MultiTaskDistiller(
            quiet(), jb.DistillationConfig(), {"a": teacher}, student,
            {"a": logits_adaptor}, {"a": logits_adaptor},
        )  # fmt: skip


@pytest.mark.slow
def test_a_shared_layer_may_be_frozen_and_a_clone_may_be_the_teacher():
    teacher, student = pair()
    before = np.array(teacher.first.kernel[...])
    frozen = jb.freeze(student, "first")
    for teacher_of_it, student_of_it in ((teacher, frozen), (nnx.clone(teacher), student)):
        distiller(teacher_of_it, student_of_it).train(optax.sgd(0.1), [DATA], num_steps=1)
        is_same = np.array_equal(teacher.first.kernel[...], before)
        assert is_same == (student_of_it is frozen)
