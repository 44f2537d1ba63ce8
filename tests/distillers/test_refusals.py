"""Impossible trainings are refused or warned of before compiling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.plan import Plan
from tests.toys import (
    HIDDEN_MATCH,
    Encoder,
    hidden_adaptor,
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    text_data,
    vector_data,
)

CONFIG = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)
TEACHER = (mlp, mlp_params(8, seed=1))
DATA = vector_data(24)
BATCHES = list(jb.ArrayLoader(DATA, 8, shuffle=False))
SGD = optax.sgd(0.1)


def distiller(config=None, distill=CONFIG, cls=jb.BasicDistiller, student=None):
    student = student or (mlp, mlp_params(3))
    return cls(config or quiet(), distill, TEACHER, student, logits_adaptor, logits_adaptor)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "needs num_epochs or num_steps"),
        ({"num_epochs": 0}, "num_epochs must be an int >= 1, got 0"),
        ({"num_steps": 4.5}, "num_steps must be an int >= 1, got 4.5"),
        ({"num_epochs": 1, "dataloader": []}, "empty"),
        ({"num_epochs": 1, "dataloader": iter(BATCHES)}, "num_steps"),
        ({"num_steps": 4, "dataloader": iter(BATCHES)}, "exhausted"),
        ({"num_epochs": 1, "scheduler_class": object}, "schedule of optax"),
        ({"num_epochs": 1, "dataloader": [{"x": ["a"]}]}, "'x' holds str"),
    ],
)
def test_bad_training_arguments_are_refused(arguments, says):
    with pytest.raises(jb.UsageError, match=says):
        distiller().train(SGD, **{"dataloader": BATCHES, **arguments})


@pytest.mark.slow
def test_an_epoch_shorter_than_a_group_is_refused_and_a_remainder_is_reported():
    """Lesson B.6, 33: TextBrewer silently trains nothing."""
    with pytest.raises(jb.UsageError, match="3 batches has no group of .*=4"):
        distiller(quiet(gradient_accumulation_steps=4)).train(SGD, BATCHES, num_epochs=1)
    with pytest.warns(UserWarning, match="last 1 of 3 batches"):
        result = distiller(quiet(gradient_accumulation_steps=2)).train(SGD, BATCHES, num_epochs=2)
    assert len(result.history["step"]) == 2
    result = distiller(quiet(gradient_accumulation_steps=2)).train(SGD, BATCHES, num_steps=3)
    assert len(result.history["step"]) == 3


def test_a_weight_beside_its_schedule_is_warned_of():
    config = jb.DistillationConfig(kd_loss_weight=0.3, kd_loss_weight_scheduler="linear_decay")
    with pytest.warns(UserWarning, match="'linear_decay' replaces kd_loss_weight=0.3"):
        distiller(distill=config)


def test_matches_without_effect_are_warned_of():
    config = jb.DistillationConfig(intermediate_matches=[HIDDEN_MATCH])
    with pytest.warns(UserWarning, match="BasicDistiller does not use intermediate_matches"):
        distiller(distill=config)


def test_constructors_refuse_bad_arguments():
    with pytest.raises(jb.UsageError, match="'flsw'.*gamma"):
        distiller(distill=jb.DistillationConfig(temperature_scheduler=["flsw", 1]))
    with pytest.raises(jb.UsageError, match="train_config must be a TrainingConfig, got dict"):
        distiller({"output_dir": None})
    with pytest.raises(jb.UsageError, match="adaptor_S must be a function, got NoneType"):
        jb.BasicDistiller(quiet(), CONFIG, TEACHER, TEACHER, logits_adaptor, None)


def test_a_trainer_needs_losses():
    trainer = jb.BasicTrainer(quiet(), TEACHER, lambda batch, outputs: {"logits": outputs})
    with pytest.raises(jb.UsageError, match="no 'losses'"):
        trainer.train(SGD, BATCHES, num_epochs=1)


@pytest.mark.slow
def test_a_check_finds_the_errors_of_training_and_writes_nothing(tmp_path):
    wrong = {**HIDDEN_MATCH, "proj": ["linear", 7, 8]}
    models = Encoder(8, 2, seed=1), Encoder(6, 1, seed=2)
    loader = jb.ArrayLoader(text_data(16), 4)
    config = quiet(output_dir=str(tmp_path / "run"), gradient_accumulation_steps=2)

    def general(match):
        distill = jb.DistillationConfig(intermediate_matches=[match])
        return jb.GeneralDistiller(config, distill, *models, hidden_adaptor, hidden_adaptor)

    with pytest.raises(jb.UsageError, match="proj expects a student width of 7"):
        general(wrong).check(SGD, loader, num_epochs=2)
    plan = general(HIDDEN_MATCH).check(SGD, loader, num_epochs=2)
    assert plan == Plan(total_steps=4, steps_per_epoch=2)
    assert not list(tmp_path.iterdir())
    assert len(general(HIDDEN_MATCH).train(SGD, loader, num_epochs=2).history["step"]) == 4


def test_a_check_does_not_change_the_training():
    loader = jb.ArrayLoader(DATA, 8)
    expected = distiller().train(SGD, loader, num_epochs=2).history["total_loss"]
    checked = distiller()
    checked.check(SGD, loader, num_epochs=2)
    actual = checked.train(SGD, loader, num_epochs=2).history["total_loss"]
    np.testing.assert_array_equal(actual, expected)


def test_a_check_applies_the_postprocessor_and_refuses_pytorch_arguments():
    with pytest.raises(jb.UsageError, match="scheduler_class"):
        distiller().check(SGD, BATCHES, num_epochs=1, scheduler_class=print)
    with pytest.raises(jb.UsageError, match="'x' holds str"):
        distiller().check(
            SGD, BATCHES, num_steps=1, batch_postprocessor=lambda batch: batch | {"x": ["a", "b"]}
        )


ONE = {"model_T": TEACHER, "adaptor_T": logits_adaptor}


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (jb.GeneralDistiller, {"distill_config": None}, "distill_config must be a Distillation"),
        (jb.BasicDistiller, {"distill_config": {}}, "distill_config must be a Distillation"),
        (jb.GeneralDistiller, {"custom_matches": 3}, "custom_matches must be a list.*got int"),
        (jb.GeneralDistiller, {"adaptor_T": []}, "adaptor_T must be a function, got list"),
        (jb.GeneralDistiller, {"adaptor_T": lambda batch: {}}, r"adaptor_T\(batch, model_outputs"),
        (
            jb.GeneralDistiller,
            {"adaptor_S": lambda a, b, c: {}},
            r"adaptor_S\(batch, model_outputs",
        ),
        (
            jb.MultiTeacherDistiller,
            {"model_T": [TEACHER, TEACHER], "adaptor_T": [logits_adaptor, 3]},
            r"adaptor_T\[1\] must be a function, got int",
        ),
    ],
)
def test_arguments_of_a_wrong_kind_are_named_by_the_constructor(kind, changes, says):
    arguments = {"distill_config": CONFIG, "adaptor_S": logits_adaptor, **ONE, **changes}
    with pytest.raises(jb.UsageError, match=says) as error:
        kind(quiet(), model_S=(mlp, mlp_params(3)), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("teachers", "variables", "says"),
    [
        (1, lambda own: (own, own), r"must be the model's .variables.*got tuple"),
        (1, lambda own: own["params"], r"must be the model's .variables.*got a dict of \['first'"),
        (2, lambda own: own, "each of the 2 teachers, got dict"),
        (2, lambda own: (own,), "each of the 2 teachers, got 1"),
        (2, lambda own: (own, own["params"]), r"teacher_variables\[1\] must be the model's"),
    ],
)
def test_teacher_variables_of_another_number_of_teachers_are_refused(teachers, variables, says):
    model, student = jb.as_model(TEACHER), jb.as_model((mlp, mlp_params(3)))
    objective = jb.make_objective(CONFIG)
    teacher = model if teachers == 1 else [model, model]
    step = jb.make_train_step(
        student, teacher, objective, SGD, adaptor_S=logits_adaptor, adaptor_T=logits_adaptor
    )
    state = jb.init_train_state(student, objective, SGD)
    with pytest.raises(jb.UsageError, match=says):
        step(state, variables(model.variables), BATCHES[0])


@pytest.mark.slow
def test_half_precision_weights_are_warned_of_unless_it_is_chosen():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params(3))
    with pytest.warns(UserWarning, match="weights are bfloat16.*0.004 of a weight"):
        distiller(student=(mlp, params)).train(SGD, BATCHES, num_steps=1)
    chosen = quiet(fp16=True, half_dtype="bfloat16")
    distiller(chosen, student=(mlp, params)).train(SGD, BATCHES, num_steps=1)


@pytest.mark.slow
def test_open_matches_may_have_all_the_weight():
    """Whether a match has a weight is known when it is resolved."""
    config = jb.DistillationConfig(kd_loss_weight=0, intermediate_matches="emd")
    models = Encoder(6, 2, seed=1), Encoder(6, 1)
    general = jb.GeneralDistiller(quiet(), config, *models, hidden_adaptor, hidden_adaptor)
    general.check(SGD, [text_data(4)], num_steps=1)
    with pytest.raises(jb.UsageError, match="all weights are 0"):
        distiller(distill=jb.DistillationConfig(kd_loss_weight=0))
