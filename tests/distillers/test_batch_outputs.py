"""A teacher that is not in memory: its outputs come with the batches, as from PyTorch or an API."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.step.teachers import make_teacher_step
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

TEACHER = mlp, mlp_params(8, seed=1)
BATCHES = list(jb.ArrayLoader(vector_data(16), 8, shuffle=False))
outputs_of = jax.jit(mlp)


def losses(teacher, adaptor_T, batches, kind=jb.BasicDistiller):
    distiller = kind(
        quiet(),
        jb.DistillationConfig(hard_label_weight=0.5),
        teacher,
        (mlp, mlp_params(3)),
        adaptor_T,
        logits_adaptor,
    )
    return distiller.train(optax.sgd(0.1), batches, num_epochs=2).history["total_loss"]


def named(batch, outputs):
    return {"logits": outputs["prediction"]}


FORMS = {
    "logits": (lambda logits: logits, None),
    "host logits": (np.asarray, None),
    "an adaptor's dict": (lambda logits: {"logits": logits}, None),
    "Outputs": (lambda logits: jb.Outputs(logits=(logits,)), None),
    "Outputs of one array": (lambda logits: jb.Outputs(logits=logits), None),
    "logits for the adaptor": (lambda logits: logits, logits_adaptor),
    "a model's outputs": (lambda logits: {"prediction": logits}, named),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [jb.BasicDistiller, jb.GeneralDistiller])
def test_outputs_in_the_batch_train_as_their_teacher_would(form, kind):
    make, adaptor = FORMS[form]
    batches = [
        {**batch, "teacher_cache": make(outputs_of(TEACHER[1], batch["x"]))} for batch in BATCHES
    ]
    expected = losses(TEACHER, logits_adaptor, BATCHES)
    np.testing.assert_allclose(losses(None, adaptor, batches, kind), expected, rtol=1e-6)


@pytest.mark.slow
def test_outputs_of_several_teachers_are_averaged():
    teachers = [TEACHER, (mlp, mlp_params(6, seed=2))]
    expected = losses(teachers, logits_adaptor, BATCHES, jb.MultiTeacherDistiller)
    batches = [
        {**batch, "teacher_cache": tuple(outputs_of(params, batch["x"]) for _, params in teachers)}
        for batch in BATCHES
    ]
    np.testing.assert_allclose(losses(None, logits_adaptor, batches), expected, rtol=1e-6)
    np.testing.assert_allclose(losses(None, None, batches), expected, rtol=1e-6)


def test_a_batch_without_outputs_is_refused():
    with pytest.raises(jb.UsageError, match="model_T is None, and a batch has no 'teacher_cache'"):
        losses(None, None, BATCHES)
    with pytest.raises(jb.UsageError, match="unknown key 'probabilities'"):
        losses(None, None, [{**BATCHES[0], "teacher_cache": {"probabilities": np.ones((8, 5))}}])


@pytest.mark.slow
def test_the_outputs_of_a_teacher_step_are_a_teacher_cache():
    model = jb.as_model(TEACHER)
    outputs = make_teacher_step(model, logits_adaptor)(model.variables, BATCHES[0])
    batch = {**BATCHES[0], "teacher_cache": outputs}
    expected = losses(TEACHER, logits_adaptor, BATCHES[:1])
    np.testing.assert_allclose(losses(None, None, [batch]), expected, rtol=1e-6)
    assert jnp.shape(outputs.logits[0]) == (8, 5)
