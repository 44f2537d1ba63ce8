"""TextBrewer's faults in the training loop (B.6): none of them occurs here."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.data.groups import groups
from jaxbrewer.run.device_scalars import DeviceScalars, StepScalars
from jaxbrewer.run.loop import plan_training
from jaxbrewer.run.plan import Plan
from jaxbrewer.run.step_log import LEAD, StepLog
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCHES = list(jb.ArrayLoader(vector_data(16), 8, shuffle=False))


def trainer(config=None, model=(mlp, None)):
    return jb.BasicTrainer(config or quiet(), (model[0], mlp_params(3)), logits_adaptor)


def saved(plan, **fields):
    config = quiet(**fields)
    return [step for step in range(1, plan.total_steps + 1) if plan.saves_at(step, config)]


def test_b30_num_steps_needs_no_ckpt_steps():
    assert saved(plan_training(quiet(), BATCHES, None, 7)) == [7]


def test_b25_fewer_steps_than_ckpt_steps_end_with_a_checkpoint():
    assert saved(Plan(3), ckpt_steps=5) == [3]


@pytest.mark.parametrize("given", [{"num_steps": 4.5}, {"num_epochs": 2.5}, {"num_steps": 0}])
def test_b31_fractional_steps_end_with_a_checkpoint(given):
    with pytest.raises(jb.UsageError, match="must be an int >= 1"):
        trainer().check(optax.sgd(0.1), BATCHES, **given)


def test_b32_an_exhausted_generator_is_an_error():
    running = groups(iter(BATCHES), 1)
    assert len(list(itertools.islice(running, 2))) == 2
    with pytest.raises(jb.UsageError, match="exhausted"):
        next(running)


def test_b33_too_few_batches_for_a_group_are_an_error():
    with pytest.raises(jb.UsageError, match="nothing would be trained"):
        trainer(quiet(gradient_accumulation_steps=3)).check(optax.sgd(0.1), BATCHES, num_epochs=9)


@pytest.mark.slow
def test_b34_unequal_micro_batches_give_the_mean_of_the_whole_batch():
    objective = jb.make_objective(jb.DistillationConfig(kd_loss_type="mse", temperature=1))
    parts = [jb.Outputs(logits=(np.full((size, 2), size, np.float32),)) for size in (1, 3)]
    zeros = [jb.Outputs(logits=(0 * part.logits[0],)) for part in parts]
    terms = [objective.terms(part, zero, {}) for part, zero in zip(parts, zeros, strict=True)]
    total, _ = objective.combine(jb.add_terms(*terms))
    assert total == (1 * 1**2 + 3 * 3**2) / 4


def test_b37_the_context_manager_returns_the_distiller_and_changes_no_mode():
    modes = []

    def model(params, x, train=False):
        modes.append(train)
        return mlp(params, x)

    models = (model, mlp_params(4)), (model, mlp_params(3))
    one = jb.BasicDistiller(
        quiet(), jb.DistillationConfig(), *models, logits_adaptor, logits_adaptor
    )
    with one as entered:
        assert entered is one
    one.check(optax.sgd(0.1), BATCHES, num_epochs=1)
    assert modes == [False, True]


def test_b38_scalars_are_fetched_without_blocking_the_step(monkeypatch):
    reads, read = [], DeviceScalars.read
    monkeypatch.setattr(DeviceScalars, "read", lambda self: reads.append(self) or read(self))
    added = [
        DeviceScalars.of(StepScalars({"total_loss": jnp.float32(step)})) for step in range(1, 41)
    ]
    with StepLog(None, 40, show=False) as log:
        for step, scalars in enumerate(added, start=1):
            log.add(step, 8, scalars)
            assert not set(reads) & set(added[step - LEAD :])
    assert list(log.history()["total_loss"]) == list(range(1, 41))


def test_b43_half_precision_needs_no_further_library():
    for half in ("float16", "bfloat16"):
        trainer(quiet(fp16=True, half_dtype=half)).check(optax.sgd(0.1), BATCHES, num_epochs=1)


def test_b44_the_default_device_is_the_one_present():
    config = jb.TrainingConfig(output_dir=None, progress=False)
    assert config.device == "cuda"
    result = trainer(config).train(optax.sgd(0.1), BATCHES, num_steps=1)
    assert np.isfinite(result.history["total_loss"]).all()


def test_further_pytorch_schedulers_are_refused_with_a_remedy():
    with pytest.raises(jb.UsageError, match="give the optimizer a schedule of optax"):
        trainer().check(optax.sgd(0.1), BATCHES, num_epochs=1, scheduler_class=object)
