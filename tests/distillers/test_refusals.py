"""What cannot be trained is refused or warned of, before anything is compiled."""

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


def test_an_epoch_shorter_than_a_group_is_refused_and_a_remainder_is_reported():
    """Lesson B.6, 33: nothing was trained, and nothing said so."""
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


def test_constructors_check_what_they_are_given():
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
