"""Training through the distillers: loaders, checkpoints, callbacks, run directory, errors."""

import contextlib
import functools
import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.run.checkpoint_store import CheckpointStore
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


def losses(**arguments):
    return distiller().train(SGD, **arguments).history["total_loss"]


class Walked:
    def __iter__(self):
        return iter(BATCHES)


@pytest.mark.parametrize(
    "loader",
    [BATCHES, tuple(BATCHES), Walked(), jb.ArrayLoader(DATA, 8, shuffle=False)],
    ids=["list", "tuple", "iterable", "ArrayLoader"],
)
def test_any_loader_trains_alike_by_epochs_and_by_steps(loader):
    expected = losses(dataloader=BATCHES, num_epochs=2)
    np.testing.assert_array_equal(losses(dataloader=loader, num_epochs=2), expected)
    np.testing.assert_array_equal(losses(dataloader=loader, num_steps=6), expected)


def test_a_generator_trains_for_as_many_steps_as_it_has():
    expected = losses(dataloader=BATCHES, num_epochs=1)
    actual = losses(dataloader=(batch for batch in BATCHES), num_steps=3)
    np.testing.assert_array_equal(actual, expected)


def test_grain_trains():
    import grain

    rows = [{key: value[i] for key, value in DATA.items()} for i in range(24)]
    dataset = grain.MapDataset.source(rows).batch(8)
    expected = losses(dataloader=BATCHES, num_epochs=2)
    np.testing.assert_array_equal(losses(dataloader=dataset, num_epochs=2), expected)
    stream = dataset.repeat().to_iter_dataset()
    np.testing.assert_array_equal(losses(dataloader=stream, num_steps=6), expected)


def test_tuple_batches_are_positional():
    pairs = [(batch["x"], batch["labels"]) for batch in BATCHES]

    def adaptor(batch, outputs):
        return logits_adaptor({"labels": batch[1]}, outputs)

    student = (mlp, mlp_params(3))
    result = jb.BasicDistiller(quiet(), CONFIG, TEACHER, student, adaptor, adaptor).train(
        SGD, pairs, num_epochs=2
    )
    expected = losses(dataloader=BATCHES, num_epochs=2)
    np.testing.assert_allclose(result.history["total_loss"], expected, rtol=1e-6)


def test_batch_postprocessor_and_args_reach_both_models():
    seen = []

    def model(params, x, scale):
        seen.append(scale)
        return mlp(params, x) * scale

    student, teacher = (model, mlp_params(3)), (model, mlp_params(8))
    trained = jb.BasicDistiller(
        quiet(), CONFIG, teacher, student, logits_adaptor, logits_adaptor
    ).train(
        SGD, [{**batch, "raw": ["text"] * 8} for batch in BATCHES], num_epochs=1, scale=2.0,
        batch_postprocessor=lambda batch: {k: v for k, v in batch.items() if k != "raw"},
    )  # fmt: skip
    assert set(seen) == {2.0}
    assert len(trained.history["step"]) == 3


@pytest.mark.parametrize("cached", [False, True])
def test_a_cached_teacher_is_run_once_and_changes_nothing(cached):
    calls = []

    def counted(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return mlp(params, x)

    config = jb.DistillationConfig(temperature=2, is_caching_logits=cached)
    one = jb.GeneralDistiller(
        quiet(), config, (counted, TEACHER[1]), (mlp, mlp_params(3)), logits_adaptor, logits_adaptor
    )
    history = one.train(SGD, BATCHES[:1], num_epochs=4).history
    jax.effects_barrier()
    assert len(calls) == (1 if cached else 4)
    plain = jb.DistillationConfig(temperature=2)
    expected = distiller(distill=plain).train(SGD, BATCHES[:1], num_epochs=4).history
    np.testing.assert_allclose(history["total_loss"], expected["total_loss"], rtol=1e-6)


def test_a_cache_is_fresh_in_every_training_and_reshuffled_in_every_epoch():
    """Lesson B.4, 17: a second training doubled the cache."""
    config = jb.DistillationConfig(is_caching_logits=True)
    one = distiller(distill=config)
    orders = []
    for _ in range(2):
        history = one.train(optax.sgd(0.0), BATCHES, num_epochs=3).history["total_loss"]
        assert len(history) == 9
        epochs = history.reshape(3, 3)
        assert np.ptp(np.sort(epochs, axis=1), axis=0).max() < 1e-6
        orders.append(epochs)
    assert len({tuple(np.argsort(epoch)) for epoch in orders[0]}) > 1


def test_training_again_goes_on_from_weights_and_projections():
    """Lesson B.6, 35: a second training with projections raised."""
    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    config = jb.DistillationConfig(intermediate_matches=[HIDDEN_MATCH])

    def fresh():
        return jb.GeneralDistiller(
            quiet(), config, Encoder(8, 2, seed=1), Encoder(6, 2), hidden_adaptor, hidden_adaptor
        )

    once, twice = fresh(), fresh()
    expected = once.train(SGD, batches, num_epochs=2).history["total_loss"]
    parts = [twice.train(SGD, batches, num_epochs=1).history["total_loss"] for _ in range(2)]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5)


def test_one_config_serves_two_trainings():
    """Lesson B.7, 46: schedules wrote the last weight into the config."""
    config = jb.DistillationConfig(kd_loss_weight_scheduler="linear_decay")
    first, second = (
        distiller(distill=config).train(SGD, BATCHES, num_epochs=1).history for _ in range(2)
    )
    np.testing.assert_array_equal(first["total_loss"], second["total_loss"])


# -- checkpoints and the run directory ------------------------------------------------------------


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


def test_a_callback_gets_the_student_of_that_moment_and_may_keep_it():
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
    rule = jb.make_optimizer(optax.adam(1e-2), objective)
    like = jb.init_train_state(trained, objective, rule)
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


def test_the_run_directory_tells_what_was_run(tmp_path):
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


def test_a_run_is_never_overwritten_unless_told(tmp_path):
    config = quiet(output_dir=tmp_path / "run")
    distiller(config).train(SGD, BATCHES, num_epochs=1)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(jb.UsageError, match="holds a run already"):
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


def test_without_a_teacher_only_the_labels_have_a_weight(capsys):
    trainer = jb.BasicTrainer(quiet(progress=True), (mlp, mlp_params(3)), logits_adaptor)
    trainer.train(SGD, BATCHES, num_steps=1)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "effective weights at step 0: hard_label_loss 1"


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    distiller(quiet(progress=True)).train(SGD, BATCHES, num_epochs=2)
    weights, line = capsys.readouterr().err.strip().splitlines()
    assert weights == (
        "effective weights at step 0: kd_loss 0.25 (1 / T^2, T = 2), hard_label_loss 0.5"
    )
    assert line.startswith("step 6/6  loss ")
    assert "examples/s" in line
    assert line.endswith("s left")


# -- what cannot be trained -----------------------------------------------------------------------


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
def test_arguments_that_make_no_training_are_refused(arguments, says):
    with pytest.raises(jb.UsageError, match=says):
        distiller().train(SGD, **{"dataloader": BATCHES, **arguments})


def test_an_epoch_shorter_than_a_group_is_an_error_and_a_rest_is_reported():
    """Lesson B.6, 33: nothing was trained, and nothing said so."""
    with pytest.raises(jb.UsageError, match="3 batches has no group of .*=4"):
        distiller(quiet(gradient_accumulation_steps=4)).train(SGD, BATCHES, num_epochs=1)
    with pytest.warns(UserWarning, match="last 1 of 3 batches"):
        result = distiller(quiet(gradient_accumulation_steps=2)).train(SGD, BATCHES, num_epochs=2)
    assert len(result.history["step"]) == 2
    result = distiller(quiet(gradient_accumulation_steps=2)).train(SGD, BATCHES, num_steps=3)
    assert len(result.history["step"]) == 3


@pytest.mark.slow
def test_changing_shapes_compile_once_each_and_are_warned_of():
    traces = []

    def counting(batch, outputs):
        traces.append(1)
        return logits_adaptor(batch, outputs)

    def train(sizes):
        batches = [{key: value[:size] for key, value in DATA.items()} for size in sizes]
        jb.BasicDistiller(
            quiet(), CONFIG, TEACHER, (mlp, mlp_params(3)), logits_adaptor, counting
        ).train(SGD, batches, num_epochs=2)

    train([1, 2, 3])
    assert len(traces) == 3
    with pytest.warns(UserWarning, match="9th different batch shape"):
        train(range(1, 11))


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


def test_plans_follow_the_rule_of_checkpoints():
    plan = Plan(total_steps=12, steps_per_epoch=4)
    config = jb.TrainingConfig(ckpt_frequency=3, ckpt_epoch_frequency=2)
    assert [step for step in range(1, 13) if plan.saves_at(step, config)] == [5, 6, 8, 9, 10, 12]
    never = jb.TrainingConfig(ckpt_frequency=0)
    assert not any(plan.saves_at(step, never) for step in range(1, 13))


def test_projections_with_their_own_rate_train_through_the_distiller():
    match = {**HIDDEN_MATCH, "proj": [*HIDDEN_MATCH["proj"], {"lr": 0.02}]}
    config = jb.DistillationConfig(kd_loss_weight=0, intermediate_matches=[match])
    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    result = jb.GeneralDistiller(
        quiet(), config, Encoder(8, 2, seed=1), Encoder(6, 2), hidden_adaptor, hidden_adaptor
    ).train(functools.partial(optax.adam, learning_rate=0.0), batches, num_epochs=5)
    history = result.history["unweighted_hidden_hidden_mse_-1_-1"]
    assert history[-1] < history[0]


def test_nnx_students_keep_their_own_mode():
    student = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
    jb.BasicDistiller(
        quiet(), CONFIG, TEACHER, student, logits_adaptor,
        lambda batch, outputs: {"logits": outputs},
    ).train(SGD, [{"inputs": DATA["x"], **DATA}], num_epochs=1)  # fmt: skip
    assert np.isfinite(student.kernel[...]).all()


def test_a_check_finds_what_training_would_and_writes_nothing(tmp_path):
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


def test_a_check_leaves_the_training_as_it_would_be():
    loader = jb.ArrayLoader(DATA, 8)
    expected = distiller().train(SGD, loader, num_epochs=2).history["total_loss"]
    checked = distiller()
    checked.check(SGD, loader, num_epochs=2)
    actual = checked.train(SGD, loader, num_epochs=2).history["total_loss"]
    np.testing.assert_array_equal(actual, expected)


def test_a_check_goes_through_the_postprocessor_and_pytorchs_arguments():
    with pytest.raises(jb.UsageError, match="scheduler_class"):
        distiller().check(SGD, BATCHES, num_epochs=1, scheduler_class=print)
    with pytest.raises(jb.UsageError, match="'x' holds str"):
        distiller().check(
            SGD, BATCHES, num_steps=1, batch_postprocessor=lambda batch: batch | {"x": ["a", "b"]}
        )
