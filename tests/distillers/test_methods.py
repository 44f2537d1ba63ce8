"""Every public method of every distiller, and what a second training compiles."""

import inspect

import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.plan import Plan
from tests.toys import quiet

LABELS = np.arange(4) % 2
BATCHES = [{"x": np.eye(4, dtype="f"), "labels": LABELS}] * 2
MATCH = {"layer_S": 0, "layer_T": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
EYE = np.eye(4, dtype="f")
PARAMS = {"hidden": EYE, "up": EYE[:, :2], "down": np.ones((4, 2), "f")}
OPTIMIZER = optax.sgd(0.1)
TRACED = []


def model(params, x):
    TRACED.append(1)
    hidden = x @ params["hidden"]
    return {"hidden": hidden, "up": hidden @ params["up"], "down": hidden @ params["down"]}


def head(name):
    def adaptor(batch, outputs):
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs[name], batch["labels"])
        return {"logits": outputs[name], "losses": loss, "hidden": [outputs["hidden"]]}

    return adaptor


def by_task(value):
    return {"up": value, "down": value}


TEACHER, STUDENT = (model, PARAMS), (model, {**PARAMS, "up": np.zeros((4, 2), "f")})
LOGITS, HIDDEN = jb.DistillationConfig(), jb.DistillationConfig(intermediate_matches=[MATCH])
UP, HEADS = head("up"), {"up": head("up"), "down": head("down")}
DISTILLERS = {
    jb.BasicTrainer: lambda config: jb.BasicTrainer(config, STUDENT, UP),
    jb.BasicDistiller: lambda config: jb.BasicDistiller(config, LOGITS, TEACHER, STUDENT, UP, UP),
    jb.GeneralDistiller: lambda config: jb.GeneralDistiller(
        config, HIDDEN, TEACHER, STUDENT, UP, UP
    ),
    jb.MultiTeacherDistiller: lambda config: jb.MultiTeacherDistiller(
        config, HIDDEN, [TEACHER, TEACHER], STUDENT, UP, UP
    ),
    jb.MultiTaskDistiller: lambda config: jb.MultiTaskDistiller(
        config, HIDDEN, by_task(TEACHER), STUDENT, HEADS, HEADS
    ),
}


def loaders(kind):
    return by_task(BATCHES) if kind is jb.MultiTaskDistiller else BATCHES


@pytest.mark.slow
@pytest.mark.parametrize("kind", DISTILLERS, ids=lambda kind: kind.__name__)
def test_every_public_method_of_every_distiller_works(kind, tmp_path):
    """Lesson: a subclass that skipped its base's constructor had a method without its fields."""
    data = loaders(kind)
    config = quiet(gradient_accumulation_steps=2, output_dir=tmp_path)
    with DISTILLERS[kind](config) as distiller:
        called = {
            "check": distiller.check(OPTIMIZER, data, num_steps=2),
            "estimate": distiller.estimate(OPTIMIZER, data, num_steps=2),
            "train": distiller.train(OPTIMIZER, data, num_steps=2),
            "restore": distiller.restore(2),
        }
        if kind is jb.BasicTrainer:
            with pytest.raises(jb.UsageError, match="need a teacher"):
                distiller.table(data)
        else:
            called["table"] = distiller.table(data)
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction)}
    assert {name for name in methods if not name.startswith("_")} == {*called, "table"}
    assert called["check"] == Plan(total_steps=2)
    assert called["estimate"].flops > 0
    assert len(called["train"].history["total_loss"]) == 2
    has_match = kind not in (jb.BasicTrainer, jb.BasicDistiller)
    assert ("hidden_mse" in called.get("table", "")) == has_match


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jb.BasicTrainer, jb.MultiTeacherDistiller])
def test_a_check_and_trainings_under_equal_settings_are_traced_once(kind):
    distiller, scale = DISTILLERS[kind](quiet()), {"max_grad_norm": 1.0}
    distiller.check(OPTIMIZER, BATCHES, num_steps=2, **scale)
    TRACED.clear()
    first = distiller.train(OPTIMIZER, BATCHES, num_steps=2, **scale).history["total_loss"]
    again = distiller.train(OPTIMIZER, BATCHES, num_steps=2, **scale).history["total_loss"]
    assert not TRACED
    assert again[0] < first[-1]
    for settings in ({"max_grad_norm": 2.0}, {"num_steps": 3}):
        distiller.train(OPTIMIZER, BATCHES, **{"num_steps": 2, **scale, **settings})
        assert TRACED
        TRACED.clear()


@pytest.mark.slow
def test_an_optimizers_closures_are_walked_for_a_run_directory_alone(monkeypatch, tmp_path):
    walked = []
    monkeypatch.setattr(
        "jaxbrewer.distillers.prepared.closure_settings", lambda update: walked.append(1) or {}
    )
    distiller = DISTILLERS[jb.BasicTrainer](quiet())
    distiller.train(OPTIMIZER, BATCHES, num_steps=1)
    assert not walked
    distiller.train_config = quiet(output_dir=tmp_path / "run")
    distiller.train(OPTIMIZER, BATCHES, num_steps=1)
    assert walked
