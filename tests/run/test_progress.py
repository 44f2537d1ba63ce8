"""The progress of a training on a terminal and elsewhere."""

import io
import re
import time
from types import SimpleNamespace

import jax.numpy as jnp
import optax
import pytest
from rich.console import Console

import jaxbrewer as jb
from jaxbrewer.run.progress import PassProgress, ProgressDisplay
from jaxbrewer.run.step_log import StepLog
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_last_line_is_not_printed_twice(capsys):
    display = ProgressDisplay(3)
    start = display._at
    for step in (1, 2, 3):
        display.advance(step, 8, start + 11.0 * step, 0.5)
    display.close()
    assert [line.split("  ")[0] for line in lines(capsys)] == ["step 1/3", "step 2/3", "step 3/3"]


def test_the_speed_excludes_compilations(capsys):
    display = ProgressDisplay(100, lead=2)
    at = display._at
    for step in range(1, 51):
        compiled = step in (1, 21)
        at += 20.0 if compiled else 0.25
        display.advance(step, 8, at, 0.5, compiled=compiled)
    shown = lines(capsys)
    assert shown[0] == "step 1/100  loss 0.5000"  # the speed is not known yet
    assert shown[1] == "step 21/100  loss 0.5000  32 examples/s  data wait 0%  20 s left"
    display.close()
    assert lines(capsys) == ["step 50/100  loss 0.5000  32 examples/s  data wait 0%  12 s left"]


def test_a_training_shows_the_current_task(capsys):
    trainer = jb.BasicTrainer(quiet(progress=True), (mlp, mlp_params(3)), logits_adaptor)
    wide, slim = vector_data(8), vector_data(4)
    trainer.train(optax.sgd(0.1), [wide, wide, slim, wide], num_steps=4)
    waits = [line for line in lines(capsys) if "loss" not in line]
    assert waits == [
        "step 1/4  reading the first batch",
        "step 1/4  compiling for this shape of batches",
        "step 3/4  compiling for this shape of batches",
    ]


def test_a_bar_shows_the_current_task(monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    display = ProgressDisplay(3)
    display.wait_for(1, "compiling")
    assert [task.fields["shown"] for task in display._bar.tasks] == ["compiling"]
    display.advance(1, 8, display._at, 0.5)
    assert display._bar.tasks[0].fields["shown"].startswith("loss 0.5")
    display.close()


LARGE = 1_000_000


def far_into_a_training(display):
    """Notes steps whose numbers are as wide as they get."""
    at = display._at
    for step in range(LARGE // 10, LARGE // 10 + 5):
        at += 0.9
        display.advance(step, 10_000, at, 99.12345, waited=0.09)


def test_a_line_has_at_most_80_columns(capsys):
    display = ProgressDisplay(LARGE)
    far_into_a_training(display)
    display.close()
    (line,) = lines(capsys)
    assert line == (
        "step 100004/1000000  loss 99.1235  11111 examples/s  data wait 10%  9 d 9 h left"
    )
    assert len(line) <= 80


@pytest.mark.parametrize("total", [20, LARGE])
def test_a_bar_has_at_most_80_columns(total, monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, legacy_windows=False)
    monkeypatch.setattr("jaxbrewer.run.progress.Console", lambda **_: console)
    display = ProgressDisplay(total)
    far_into_a_training(display)
    display.close()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).split("\r")[-1].strip("\n")
    assert len(last) <= 80
    assert "\n" not in last
    assert "data wait 10%" in last
    assert last.endswith("left")


def test_data_are_awaited_only_while_the_devices_are_idle():
    class Step:
        """Scalars of a step that the devices may not have finished."""

        ready = True

        def is_ready(self):
            return self.ready

    log, step = StepLog(None, 3, show=False), Step()
    log._pending = [SimpleNamespace(scalars=step)]
    for ready in (True, False):
        step.ready = ready
        for _ in log.reading(slow_batches()):
            log.has_data()
        assert (log._waited > 0.02) == ready


def slow_batches():
    time.sleep(0.03)
    yield jnp.zeros(1)


@pytest.mark.parametrize(
    ("batches", "says"),
    [(40, ["pass: 5 of 40 batches, 84 s left", "pass: 10 of 40 batches, 72 s left"]),
     (None, ["pass: 5 batches", "pass: 10 batches"])],
)  # fmt: skip
def test_a_pass_over_the_data_reports_every_ten_seconds(batches, says, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    step = PassProgress("pass", batches).counting(lambda batch: 2 * batch)
    for batch in range(11):  # 2.4 s each
        assert step(batch) == 2 * batch
        now += 2.4
    assert lines(capsys) == says


def test_a_pass_that_is_over_reports_nothing(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    step = PassProgress("pass", 2).counting(lambda batch: batch)
    for batch in range(4):  # a training asks again for what the pass lacked
        step(batch)
        now += 20.0
    assert lines(capsys) == ["pass: 1 of 2 batches, 20 s left"]
