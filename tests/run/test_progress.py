"""Lines of progress without a terminal."""

import optax

import jaxbrewer as jb
from jaxbrewer.run.progress import ProgressDisplay
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
    assert shown[1] == "step 21/100  loss 0.5000  32 examples/s  20 s left"
    display.close()
    assert lines(capsys) == ["step 50/100  loss 0.5000  32 examples/s  12 s left"]


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
