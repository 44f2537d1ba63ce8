"""Which steps save a checkpoint."""

import jaxbrewer as jb
from jaxbrewer.run.plan import Plan


def test_checkpoints_follow_frequency_and_epoch_frequency():
    plan = Plan(total_steps=12, steps_per_epoch=4)
    config = jb.TrainingConfig(ckpt_frequency=3, ckpt_epoch_frequency=2)
    assert [step for step in range(1, 13) if plan.saves_at(step, config)] == [5, 6, 8, 9, 10, 12]
    never = jb.TrainingConfig(ckpt_frequency=0)
    assert not any(plan.saves_at(step, never) for step in range(1, 13))
