"""Outputs of a training: checkpoints, callbacks, logs, the run directory."""

import contextlib
import json

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.checkpoint_store import CheckpointStore
from tests.pages import form, page_block
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "arguments", "expected"),
    [
        ({}, {"num_epochs": 2}, [3, 6]),
        ({"ckpt_frequency": 3}, {"num_epochs": 1}, [1, 2, 3]),
        ({"ckpt_epoch_frequency": 2}, {"num_epochs": 3}, [6, 9]),
        ({"ckpt_steps": 2}, {"num_steps": 5}, [2, 4, 5]),
        ({}, {"num_steps": 5}, [5]),
    ],
)
def test_checkpoints_and_callbacks_come_at_textbrewers_steps(tmp_path, fields, arguments, expected):
    called = []
    config = quiet(output_dir=tmp_path / "run", **fields)
    distiller(config).train(
        SGD, BATCHES, callback=lambda model, step: called.append(step), **arguments
    )
    assert called == expected
    saved = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == expected


@pytest.mark.slow
def test_a_callback_gets_a_student_that_it_may_keep():
    kept = {}

    def callback(model, step):
        assert isinstance(model, Encoder)
        kept[step] = model

    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    student = Encoder(6, 1, dropout=0.5)
    result = jb.GeneralDistiller(
        quiet(), CONFIG, Encoder(8, 2), student, hidden_adaptor, hidden_adaptor
    ).train(SGD, batches, num_epochs=2, callback=callback)
    assert result.student is student
    inputs = {key: batches[0][key] for key in ("input_ids", "attention_mask")}
    early, late = (model(**inputs)["logits"] for model in kept.values())
    assert not np.array_equal(early, late)
    np.testing.assert_array_equal(late, kept[4](**inputs)["logits"])  # no dropout
    student.eval()
    np.testing.assert_allclose(late, student(**inputs)["logits"], rtol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_holds_the_whole_state_and_the_student_alone(tmp_path):
    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    config = jb.DistillationConfig(intermediate_matches=[HIDDEN_MATCH])
    student = Encoder(6, 2, norm=True)
    one = jb.GeneralDistiller(
        quiet(output_dir=tmp_path / "run"), config, Encoder(8, 2), student,
        hidden_adaptor, hidden_adaptor,
    )  # fmt: skip
    one.train(optax.adam(1e-2), batches, num_epochs=1)
    trained = jb.as_model(student)
    alone = jb.load_student(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, alone, trained.variables)
    objective = jb.make_objective(config)
    optimizer = jb.make_optimizer(optax.adam(1e-2), objective)
    like = jb.init_train_state(trained, objective, optimizer)
    with contextlib.closing(CheckpointStore(tmp_path / "run")) as store:
        _, state, position, _ = store.load(2, like)
    assert (position["epoch"], position["batch"]) == (0, 2)
    assert state.step == 2
    jax.tree.map(np.testing.assert_array_equal, state.params, trained.params)
    assert jax.tree.structure(state) == jax.tree.structure(like)
    moments = optax.tree.get(state.opt_state["projections"], "mu")
    assert all(leaf.any() for leaf in jax.tree.leaves(moments))
    with pytest.raises(jb.UsageError, match=r"no checkpoint of step 7; it has \[2\]"):
        jb.load_student(tmp_path / "run", 7)
    with pytest.raises(jb.UsageError, match="holds no checkpoints"):
        jb.load_student(tmp_path)


def test_the_run_directory_records_configs_and_metrics(tmp_path):
    config = quiet(output_dir=tmp_path / "run", log_dir=tmp_path / "logs")
    _, history = distiller(config).train(SGD, BATCHES, num_epochs=2)
    run = tmp_path / "run"
    saved = json.loads((run / "config.json").read_text())
    assert jb.TrainingConfig.from_dict(saved["training"]) == config
    assert jb.DistillationConfig.from_dict(saved["distillation"]) == CONFIG
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["total_steps"] == 6
    assert manifest["parameters"] == {"student": 35, "teacher": 85}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    for name, values in history.items():
        np.testing.assert_array_equal([line[name] for line in lines], values)


def test_every_scalar_of_every_step_reaches_tensorboard(tmp_path):
    """Lesson A, F3: metrics were computed and dropped."""
    from tensorboardX.proto.event_pb2 import Event

    config = quiet(log_dir=tmp_path)
    _, history = distiller(config).train(SGD, BATCHES, num_epochs=2)
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), {}
    while data:  # records: length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    weights = [
        found.pop(f"scalar/effective_weight_{term}") for term in ("kd_loss", "hard_label_loss")
    ]
    assert weights == [[(0, 0.25)], [(0, 0.5)]]  # 1 / T^2
    names = set(history) - {"step"}
    assert found.keys() == {f"scalar/{name}" for name in names}
    for name in names:
        expected = list(zip(history["step"], history[name].astype("f"), strict=True))
        np.testing.assert_allclose(found[f"scalar/{name}"], expected)
    assert "scalar/unweighted_kd_loss" in found


@pytest.mark.slow
def test_a_run_is_overwritten_only_on_request(tmp_path):
    config = quiet(output_dir=tmp_path / "run")
    distiller(config).train(SGD, BATCHES, num_epochs=1)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(jb.UsageError, match="already holds a run"):
        distiller(config).train(SGD, BATCHES, num_epochs=2)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    (tmp_path / "run" / "notes.txt").write_text("mine")
    again = quiet(output_dir=tmp_path / "run", overwrite=True)
    distiller(again).train(SGD, BATCHES, num_epochs=2)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jb.UsageError, match="file.* cannot be written"):
        distiller(quiet(output_dir=tmp_path / "file")).train(SGD, BATCHES, num_epochs=1)


def test_without_a_teacher_only_hard_labels_have_a_weight(capsys):
    trainer = jb.BasicTrainer(quiet(progress=True), (mlp, mlp_params(3)), logits_adaptor)
    trainer.train(SGD, BATCHES, num_steps=1)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "effective weights at step 0: hard_label_loss 1"


def test_progress_without_a_terminal_is_plain_lines(tmp_path, capsys):
    distiller(quiet(progress=True)).train(SGD, BATCHES, num_epochs=2)
    weights, *waiting, line = capsys.readouterr().err.strip().splitlines()
    assert weights == (
        "effective weights at step 0: kd_loss 0.25 (1 / T^2, T = 2), hard_label_loss 0.5"
    )
    assert form(weights) == form(page_block("losses.md", "effective weights"))
    assert waiting[0].endswith("reading the first batch")
    assert all(text.startswith("step ") for text in waiting)
    assert line.startswith("step 6/6  loss ")
    assert "examples/s" in line
    assert line.endswith("s left")
