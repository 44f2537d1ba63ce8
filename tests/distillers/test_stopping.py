"""Trainings that end early: by their callback, Ctrl-C or an error; and the weights that remain."""

import os
import signal

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.interrupts import Interrupts
from jaxbrewer.run.logs import read_events
from tests.toys import NnxMLP, logits_adaptor, mlp, mlp_params, quiet, vector_data

DATA = vector_data(8)
SGD = optax.sgd(0.1)


def trainer(student=None, **settings):
    return jb.BasicTrainer(quiet(**settings), student or (mlp, mlp_params(3)), logits_adaptor)


def weights_after(steps):
    return trainer().train(SGD, [DATA], num_steps=steps).student


def weights_of(batches):
    return trainer().train(SGD, batches, num_epochs=1).student


class Loader:
    """A loader that gets Ctrl-C before one of its batches."""

    def __init__(self, batches, stops_at):
        self.batches, self.stops_at = batches, stops_at

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            if number == self.stops_at:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def stopping(at, error):
    def callback(model, step):
        if step == at:
            raise error

    return callback


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_callback_ends_a_training_in_order(tmp_path):
    config = {
        "output_dir": tmp_path / "run",
        "ckpt_steps": 1,
        "keep_best": 1,
        "best_metric": "score",
    }
    callback = stopping(3, jb.StopTraining({"score": 1.0}))

    def scored(model, step):
        callback(model, step)
        return {"score": 0.0}

    student, history = trainer(**config).train(SGD, [DATA], num_steps=9, callback=scored)
    assert_equal(student, weights_after(3))
    assert list(history["step"]) == [1, 2, 3]
    assert_equal(jb.load_student(tmp_path / "run", 3)["params"], student)
    rest = trainer(**config, resume=True).train(
        SGD, [DATA], num_steps=9, callback=lambda model, step: {"score": 0.0}
    )
    assert list(rest.history["step"]) == list(range(1, 10))
    assert_equal(rest.student, weights_after(9))


def scores_of(*scores):
    """A callback that returns these, one at each step."""
    return lambda model, step: {"score": scores[step - 1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "scores", "steps"),
    [
        ("max", (1, 3, 2, 3, 9), 4),  # an equal score is no better
        ("max", (1, float("nan"), 0, 9, 9), 3),
        ("min", (3, 2, 1, 0, 0), 5),
        ("min", (3, 2, 4, 1, 4, 4, 9), 6),
    ],
)
def test_patience_ends_a_training_whose_checkpoints_get_no_better(mode, scores, steps, tmp_path):
    config = {
        "output_dir": tmp_path / "run", "ckpt_steps": 1, "patience": 2, "keep_best": 1,
        "best_metric": "score", "best_mode": mode, "log_dir": tmp_path / "log",
    }  # fmt: skip
    callback, total = scores_of(*scores), len(scores)
    ended = trainer(**config).train(SGD, [DATA], num_steps=total, callback=callback)
    assert list(ended.history["step"]) == list(range(1, steps + 1))
    assert_equal(ended.student, weights_after(steps))
    events = [
        value.simple_value
        for path in (tmp_path / "log").iterdir()
        for _, event in read_events(path)
        for value in event.summary.value
        if value.tag == "validation/score"
    ]
    np.testing.assert_array_equal(events, scores[:steps])
    again = trainer(**config, resume=True).train(SGD, [DATA], num_steps=total, callback=callback)
    assert len(again.history["step"]) == steps  # resuming does not end it later
    more = trainer(**{**config, "resume": True, "patience": 3})
    longer = more.train(SGD, [DATA], num_steps=total, callback=callback)
    assert min(steps + 1, total) <= len(longer.history["step"])


def test_patience_watches_a_metric_of_the_step(tmp_path):
    config = {"output_dir": tmp_path, "ckpt_steps": 1, "patience": 1, "best_metric": "total_loss"}
    ended = trainer(**config, best_mode="max").train(SGD, [DATA], num_steps=9)
    assert list(ended.history["step"]) == [1, 2]  # the loss falls
    with pytest.raises(jb.UsageError, match="best_metric 'score' is neither returned"):
        trainer(**{**config, "best_metric": "score"}, overwrite=True).check(
            SGD, [DATA], num_steps=9
        )


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, StopIteration, ZeroDivisionError])
def test_an_error_in_a_callback_keeps_the_trained_weights(error):
    ended = trainer(ckpt_steps=1)
    with pytest.raises(error):
        ended.train(SGD, [DATA], num_steps=9, callback=stopping(3, error()))
    assert_equal(ended.student, weights_after(3))
    assert list(ended.history["step"]) == [1, 2, 3]
    more = ended.train(SGD, [DATA], num_steps=2).student
    np.testing.assert_allclose(
        more["first"]["kernel"], weights_after(5)["first"]["kernel"], rtol=1e-6
    )


def test_an_nnx_student_is_updated_in_place_by_a_training_that_ends_early():
    student, whole = NnxMLP(3, 4), NnxMLP(3, 4)
    ended = trainer(student, ckpt_steps=1)
    with pytest.raises(KeyboardInterrupt):
        ended.train(SGD, [DATA], num_steps=9, callback=stopping(3, KeyboardInterrupt()))
    trainer(whole).train(SGD, [DATA], num_steps=3)
    assert ended.student is student
    assert_equal(jb.as_model(student).params, jb.as_model(whole).params)


def test_ctrl_c_and_failing_loaders_keep_the_trained_weights():
    """A signal arrives at any instruction; between two steps there is always a whole state."""

    def loader():
        for number in range(5):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield DATA

    ended, before = trainer(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ended.train(SGD, loader(), num_steps=5)
    assert_equal(ended.student, weights_after(3))
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(jb.UsageError, match="exhausted"):
        ended.train(SGD, iter([DATA]), num_steps=5)
    assert len(ended.history["step"]) == 1


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_from_which_the_run_resumes(tmp_path, capsys):
    batches = [{**DATA, "x": DATA["x"] + number} for number in range(4)]

    config = {"output_dir": tmp_path / "run", "ckpt_steps": 100}
    with pytest.raises(KeyboardInterrupt):
        trainer(**config).train(SGD, Loader(batches, 3), num_steps=4)
    assert "Ctrl-C: step 3 is saved" in capsys.readouterr().err
    assert_equal(jb.load_student(tmp_path / "run", 3)["params"], weights_of(batches[:3]))
    rest = trainer(**config, resume=True).train(SGD, batches, num_steps=4)
    assert_equal(rest.student, weights_of(batches))


@pytest.mark.slow
def test_ctrl_c_in_a_callback_keeps_the_checkpoint_before_it(tmp_path, capsys):
    config = {"output_dir": tmp_path / "run", "ckpt_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        trainer(**config).train(SGD, [DATA], num_steps=3, callback=stopping(2, KeyboardInterrupt()))
    assert "Ctrl-C: step 2 is saved" in capsys.readouterr().err
    assert not (tmp_path / "run" / "damaged").exists()
    seen = []
    trainer(**config, resume=True).train(
        SGD, [DATA], num_steps=3, callback=lambda model, step: seen.append(step)
    )
    assert seen == [2, 3]


def test_ctrl_c_during_a_step_waits_for_its_end():
    states = ["old"]

    def step(interrupts):
        with interrupts.delayed():
            os.kill(os.getpid(), signal.SIGINT)
            states.append("new")
        states.append("one more")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        step(interrupts)
    assert states == ["old", "new"]


def test_nonfinite_weights_are_not_kept():
    bad = {**DATA, "x": DATA["x"] * np.nan}
    ended = trainer()
    with pytest.raises(jb.NonFiniteError):
        ended.train(SGD, [DATA, bad, DATA], num_steps=3)
    assert_equal(ended.student, mlp_params(3))
    assert not ended.history

    def batches():
        yield DATA
        yield bad
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ended.train(SGD, batches(), num_steps=3)
    assert_equal(ended.student, mlp_params(3))


def nnx_mlp():
    return NnxMLP(3, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [nnx_mlp, lambda: jb.freeze(nnx_mlp(), "first"), lambda: (mlp, mlp_params(3))]
)
def test_a_checkpoint_is_restored_into_the_student(make, tmp_path):
    """By its step, or as the best by ``best_metric``; weights that do not move stay too."""
    config = {
        "output_dir": tmp_path, "ckpt_steps": 1, "keep_best": 1, "best_metric": "score",
    }  # fmt: skip
    own = trainer(make(), **config)
    own.train(SGD, [DATA], num_steps=4, callback=scores_of(1, 3, 2, 0))
    expected = trainer(make()).train(SGD, [DATA], num_steps=2).student
    found = own.restore()
    assert found is own.student
    variables = [
        jb.as_model(each).variables if isinstance(each, NnxMLP) else each
        for each in (found, expected)
    ]
    assert_equal(*variables)
    with pytest.raises(jb.UsageError, match="no checkpoint of step 3"):
        own.restore(3)
    with pytest.raises(jb.UsageError, match="needs the output_dir"):
        trainer(make()).restore(1)


@pytest.mark.slow
def test_resuming_a_longer_run_is_refused(tmp_path):
    trainer(output_dir=tmp_path / "run").train(SGD, [DATA], num_epochs=3)
    again = trainer(output_dir=tmp_path / "run", resume=True, force_resume=True)
    with pytest.raises(jb.UsageError, match="has made 3 steps, more than the 2 asked for"):
        again.train(SGD, [DATA], num_epochs=2)


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (3, "callback must be a function.*got int"),
        (lambda model: None, "callback is called as callback.*'step'"),
        (lambda student, step: None, "callback is called as callback.*'student'"),
    ],
)
def test_callbacks_that_cannot_be_called_are_refused_before_the_first_step(callback, says):
    with pytest.raises(jb.UsageError, match=says):
        trainer().train(SGD, [DATA], num_steps=1, callback=callback)


@pytest.mark.slow
def test_a_forced_resume_takes_the_hyperparameters_of_its_own_optimizer(tmp_path):
    """``optax.inject_hyperparams`` keeps them in the state, which is restored."""
    make = optax.inject_hyperparams(optax.sgd)
    first = trainer(output_dir=tmp_path / "run").train(make(learning_rate=0.5), [DATA], num_steps=2)
    again = trainer(output_dir=tmp_path / "run", resume=True, force_resume=True)
    result = again.train(make(learning_rate=0.0), [DATA], num_steps=4)
    assert list(result.history["step"]) == [1, 2, 3, 4]
    assert_equal(result.student, first.student)
