"""Batch postprocessors: the student of the step, and refusals."""

import functools

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from tests.toys import LinenMLP, NnxMLP, logits_adaptor, mlp, mlp_params, quiet, vector_data

DATA = vector_data(8)
LINEN = LinenMLP(3, norm=True)
TEACHER = (mlp, mlp_params(8, seed=1))


def linen():
    return LINEN, LINEN.init(jax.random.key(0), DATA["x"])


STUDENTS = {
    "NNX": (lambda: NnxMLP(3, 4), lambda student: student.first.kernel[...]),
    "Linen": (linen, lambda student: student["params"]["first"]["kernel"]),
    "function": (lambda: (mlp, mlp_params(3)), lambda student: student["first"]["kernel"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDENTS)
def test_a_postprocessor_sees_the_student_of_its_step(kind):
    make, kernel_of = STUDENTS[kind]
    seen = []

    def sample(batch, student):
        seen.append(np.array(kernel_of(student)))
        return batch

    trainer = jb.BasicTrainer(quiet(), make(), logits_adaptor)
    trainer.train(optax.sgd(0.1), [DATA], num_steps=4, batch_postprocessor=sample)
    for steps, kernel in enumerate(seen):
        expected = jb.BasicTrainer(quiet(), make(), logits_adaptor)
        student = expected.student
        if steps:
            student = expected.train(optax.sgd(0.1), [DATA], num_steps=steps).student
        np.testing.assert_array_equal(kernel, kernel_of(student))
    assert len(seen) == 4


def test_each_tasks_postprocessor_sees_the_student():
    seen = set()

    def sample(batch, student):
        seen.add(np.asarray(student["first"]["kernel"]).tobytes())
        return batch

    distiller = jb.MultiTaskDistiller(
        quiet(), jb.DistillationConfig(), {"a": TEACHER}, (mlp, mlp_params(3)),
        {"a": logits_adaptor}, {"a": logits_adaptor},
    )  # fmt: skip
    distiller.train(optax.sgd(0.1), {"a": [DATA]}, num_steps=3, batch_postprocessors={"a": sample})
    assert len(seen) == 3


@pytest.mark.slow
def test_a_postprocessor_that_holds_the_student_is_warned_of():
    student = NnxMLP(3, 4)

    def closure(batch):
        return {**batch, "labels": student(batch["x"]).argmax(-1)}

    def argument(student_of_mine, batch):
        return batch

    for function in (closure, functools.partial(argument, student)):
        trainer = jb.BasicTrainer(quiet(), student, logits_adaptor)
        with pytest.warns(UserWarning, match="reads the student from outside.*'student'"):
            trainer.train(optax.sgd(0.1), [DATA], num_steps=1, batch_postprocessor=function)


def test_batches_that_depend_on_the_student_are_not_cached():
    distiller = jb.BasicDistiller(
        quiet(), jb.DistillationConfig(is_caching_logits=True), TEACHER, (mlp, mlp_params(3)),
        logits_adaptor, logits_adaptor,
    )  # fmt: skip
    with pytest.raises(jb.UsageError, match="takes the student.*cannot be cached"):
        distiller.train(
            optax.sgd(0.1), [DATA], num_steps=1, batch_postprocessor=lambda batch, student: batch
        )


@pytest.mark.parametrize(
    ("function", "says"),
    [("lower", "must be a function of a batch, got str"), (lambda batch: None, "returned None")],
)
def test_postprocessors_that_give_no_batch_are_refused(function, says):
    trainer = jb.BasicTrainer(quiet(), (mlp, mlp_params(3)), logits_adaptor)
    with pytest.raises(jb.UsageError, match=says):
        trainer.train(optax.sgd(0.1), [DATA], num_steps=1, batch_postprocessor=function)
