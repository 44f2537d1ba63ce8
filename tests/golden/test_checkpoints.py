"""Steps that save a checkpoint, against TextBrewer, over its whole grid."""

import warnings

import pytest

from jaxbrewer import TrainingConfig, UsageError
from jaxbrewer.run.loop import plan_training
from jaxbrewer.run.plan import Plan

from . import claims, document

GRID = document("checkpoints")
BATCHES_OF_STEPS = 3  # with num_steps, the length of the data does not matter

DIFFERENCES = {
    "epochs": "fewer batches in an epoch than gradient_accumulation_steps: an error, where "
    "TextBrewer silently trains nothing",
    "steps_multitask": "num_steps < ckpt_steps: one checkpoint at the end, as for the other "
    "distillers, where TextBrewer's multi-task distiller raises IndexError",
}


def names_of(key: str) -> list[str]:
    return [f"checkpoints/{key}[{index}]" for index in range(len(GRID[key]))]


CLAIMS = claims(
    [name for key in GRID for name in names_of(key)],
    {
        name: DIFFERENCES[key]
        for key, differing in (
            ("epochs", [row[0] < row[1] for row in GRID["epochs"]]),
            ("steps_multitask", [row[-1] == "IndexError" for row in GRID["steps_multitask"]]),
        )
        for name, differs in zip(names_of(key), differing, strict=True)
        if differs
    },
)


def saved(plan: Plan, config: TrainingConfig):
    return [step for step in range(1, plan.total_steps + 1) if plan.saves_at(step, config)]


def saved_over_epochs(batches, accumulation, frequency, epoch_frequency, num_epochs):
    config = TrainingConfig(
        gradient_accumulation_steps=accumulation,
        ckpt_frequency=frequency,
        ckpt_epoch_frequency=epoch_frequency,
        output_dir=None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The last . of . batches of each epoch")
        plan = plan_training(config, range(batches), num_epochs, None)
    assert (plan.total_steps, plan.num_epochs) == (batches // accumulation * num_epochs, num_epochs)
    return saved(plan, config)


def saved_over_steps(num_steps, ckpt_steps):
    config = TrainingConfig(ckpt_steps=ckpt_steps, output_dir=None)
    return saved(plan_training(config, range(BATCHES_OF_STEPS), None, num_steps), config)


@pytest.mark.parametrize("frequency", sorted({row[2] for row in GRID["epochs"]}))
def test_checkpoints_of_epochs_are_textbrewers(frequency: int):
    rows = [row for row in GRID["epochs"] if row[2] == frequency and row[0] >= row[1]]
    assert rows
    for *setting, expected in rows:
        assert saved_over_epochs(*setting) == expected, setting


def test_epochs_without_a_step_are_refused():
    rows = [row for row in GRID["epochs"] if row[0] < row[1]]
    assert rows
    for *setting, expected in rows:
        assert expected == [], setting
        with pytest.raises(UsageError, match="nothing would be trained"):
            saved_over_epochs(*setting)


def test_checkpoints_of_steps_are_textbrewers():
    for *setting, expected in GRID["steps"]:
        assert saved_over_steps(*setting) == expected, setting


def test_multi_task_checkpoints_are_those_of_one_task():
    plain = {tuple(setting): expected for *setting, expected in GRID["steps"]}
    for num_steps, ckpt_steps, expected in GRID["steps_multitask"]:
        if num_steps < ckpt_steps:
            assert expected == "IndexError"
            expected = plain[num_steps, ckpt_steps]
        assert saved_over_steps(num_steps, ckpt_steps) == expected, (num_steps, ckpt_steps)


def test_all_rows_are_accounted_for():
    updates = [row[0] >= row[1] for row in GRID["epochs"]]
    failing = [row[-1] == "IndexError" for row in GRID["steps_multitask"]]
    assert (updates.count(True), updates.count(False)) == (720, 180)
    assert (len(GRID["steps"]), failing.count(False), failing.count(True)) == (60, 45, 15)
    assert GRID.keys() == {"steps", *DIFFERENCES}
