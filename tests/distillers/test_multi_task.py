"""Several tasks: the draw, positions, parameters without a gradient, metrics, compilations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.distillers.task_sampling import make_draw, task_probabilities
from jaxbrewer.run.load_student import best_step
from tests.toys import cross_entropy, mlp, mlp_params, quiet, vector_data

TASKS = ("a", "b")
DATA = {"a": vector_data(24, seed=1), "b": vector_data(8, seed=2)}
TEACHERS = {task: (mlp, mlp_params(8, seed=index)) for index, task in enumerate(TASKS)}


def student_model(params, x):
    """A trunk and a head per task; the hidden layer is returned too."""
    hidden = jnp.tanh(x @ params["trunk"])
    return {"hidden": hidden, **{task: hidden @ params["head"][task] for task in TASKS}}


def student_params():
    return {
        "trunk": jax.random.normal(jax.random.key(0), (4, 6)) / 2,
        "head": {task: jax.random.normal(jax.random.key(1), (6, 5)) / 2 for task in TASKS},
    }


def head(task):
    def adaptor(batch, outputs):
        loss = cross_entropy(outputs[task], batch["labels"])
        return {"logits": outputs[task], "losses": loss, "hidden": [outputs["hidden"]]}

    return adaptor


def teacher_adaptor(batch, logits):
    return {"logits": logits, "hidden": [jnp.pad(batch["x"], ((0, 0), (0, 4)))]}


def distiller(config=None, distill=None, teachers=None):
    return jb.MultiTaskDistiller(
        config or quiet(),
        distill or jb.DistillationConfig(temperature=2, hard_label_weight=0.5),
        teachers or TEACHERS,
        (student_model, student_params()),
        dict.fromkeys(TASKS, teacher_adaptor),
        {task: head(task) for task in TASKS},
    )


def loaders(**settings):
    return {task: jb.ArrayLoader(DATA[task], 4, **settings) for task in TASKS}


def test_a_head_without_a_batch_keeps_its_weights(monkeypatch):
    monkeypatch.setattr(
        "jaxbrewer.distillers.multi_task.make_draw", lambda *_: lambda update, size: ["a"] * size
    )
    before = student_params()
    trained, history = distiller().train(optax.adamw(0.1), loaders(), num_steps=3)
    np.testing.assert_array_equal(trained["head"]["b"], before["head"]["b"])
    assert not np.array_equal(trained["head"]["a"], before["head"]["a"])
    assert not any(name.startswith("b/") for name in history)


@pytest.mark.slow
def test_each_task_compiles_once_per_shape_and_names_its_metrics():
    traced = []

    def counted(params, x):
        traced.append(x.shape)
        return student_model(params, x)

    one = distiller()
    one._student = jb.as_model((counted, student_params()))
    data = {"a": jb.ArrayLoader(DATA["a"], 4), "b": jb.ArrayLoader(DATA["b"], 2)}
    history = one.train(optax.sgd(0.1), data, num_steps=12).history
    drawn = make_draw(task_probabilities({"a": 24, "b": 8}, 1), 0)
    tasks = [drawn(update, 1)[0] for update in range(12)]
    assert set(tasks) == set(TASKS)
    for task in TASKS:
        own = np.array([drawn_task == task for drawn_task in tasks])
        np.testing.assert_array_equal(np.isfinite(history[f"{task}/unweighted_kd_loss"]), own)
        np.testing.assert_array_equal(history[f"{task}/total_loss"][own],
                                      history["total_loss"][own])  # fmt: skip
    assert (
        sorted(traced) == [(2, 4)] * 2 + [(4, 4)] * 2
    )  # looked at for its gradients, and compiled


def test_effective_weights_of_all_tasks_are_printed_before_the_first_step(capsys):
    distill = {"a": jb.DistillationConfig(temperature=2),
               "b": jb.DistillationConfig(kd_loss_type="kl", hard_label_weight=0.5)}  # fmt: skip
    distiller(quiet(progress=True), distill).train(optax.sgd(0.1), loaders(), num_steps=1)
    assert capsys.readouterr().err.splitlines()[0] == (
        "effective weights at step 0: a/kd_loss 0.25 (1 / T^2, T = 2), a/hard_label_loss 0, "
        "b/kd_loss 1, b/hard_label_loss 0.5"
    )


@pytest.mark.slow
def test_each_task_has_its_own_config_and_teachers():
    match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
             "proj": ["linear", 6, 8]}  # fmt: skip
    configs = {
        "a": jb.DistillationConfig(temperature=2, intermediate_matches=[match]),
        "b": jb.DistillationConfig(temperature=8, teacher_average="probabilities"),
    }
    teachers = {"a": TEACHERS["a"], "b": [TEACHERS["a"], TEACHERS["b"]]}
    one = distiller(quiet(), configs, teachers)
    history = one.train(optax.sgd(0.1), loaders(), num_steps=8).history
    assert {name for name in history if "unweighted" in name} == {
        "a/unweighted_kd_loss", "a/unweighted_hard_label_loss",
        "a/unweighted_hidden_hidden_mse_0_0", "b/unweighted_kd_loss",
        "b/unweighted_hard_label_loss",
    }  # fmt: skip
    assert jax.tree.map(jnp.shape, one.projections) == {
        "a": {"0": {"kernel": (6, 8), "bias": (8,)}}, "b": {},
    }  # fmt: skip


def test_an_estimate_is_of_the_step_of_its_task():
    data = {"a": jb.ArrayLoader(DATA["a"], 4), "b": jb.ArrayLoader(DATA["b"], 4)}
    one = distiller(teachers={"a": TEACHERS["a"], "b": None})
    with_teacher, without = (
        one.estimate(optax.sgd(0.1), data, num_steps=9, task=task).flops for task in TASKS
    )
    assert without < with_teacher
    with pytest.raises(jb.UsageError, match=r"task: 'c': Allowed: 'a', 'b'\."):
        one.estimate(optax.sgd(0.1), data, num_steps=9, task="c")


@pytest.mark.slow
def test_tasks_without_a_teacher_learn_from_their_labels():
    labels_alone = jb.DistillationConfig(hard_label_weight=1)
    one = distiller(distill=labels_alone, teachers=dict.fromkeys(TASKS))
    history = one.train(optax.sgd(0.0), loaders(shuffle=False), num_steps=2).history
    assert not any("kd_loss" in name for name in history)
    task = make_draw(task_probabilities({"a": 24, "b": 8}, 1), 0)(0, 1)[0]
    first = next(iter(jb.ArrayLoader(DATA[task], 4, shuffle=False)))
    outputs = student_model(student_params(), first["x"])
    alone = cross_entropy(outputs[task], first["labels"])
    np.testing.assert_allclose(history["total_loss"][0], np.mean(alone), rtol=1e-6)


@pytest.mark.slow
def test_the_loss_of_a_mixed_group_is_the_mean_over_its_batches():
    one = distiller(quiet(gradient_accumulation_steps=2))
    history = one.train(optax.sgd(0.0), loaders(), num_steps=5).history
    draw = make_draw(task_probabilities({"a": 24, "b": 8}, 1), 0)
    for update in range(5):
        share = draw(update, 2).count("a") / 2
        each = (np.nan_to_num(history[f"{task}/total_loss"][update]) for task in TASKS)
        first, second = each
        np.testing.assert_allclose(
            history["total_loss"][update], share * first + (1 - share) * second, rtol=1e-5
        )


def test_mismatched_tasks_are_refused_in_one_line():
    config = jb.DistillationConfig()
    model, adaptors = (student_model, student_params()), {task: head(task) for task in TASKS}

    def build(**changes):
        arguments = {"distill_config": config, "model_T": TEACHERS, "adaptor_T": adaptors,
                     "adaptor_S": adaptors, **changes}  # fmt: skip
        return jb.MultiTaskDistiller(
            arguments.pop("train_config", quiet()), model_S=model, **arguments
        )

    for call, parts in (
        (lambda: build(train_config=quiet(cache_dir="cache")), ["cache_dir", "with_outputs"]),
        (lambda: build(model_T=list(TEACHERS.values())), ["model_T", "dict"]),
        (lambda: build(adaptor_S={"a": head("a")}), ["adaptor_S", "['b']"]),
        (lambda: build(adaptor_T={**adaptors, "bb": head("a")}), ["adaptor_T", "'bb'", "'b'"]),
        (lambda: build(distill_config={"a": config}), ["distill_config", "['b']"]),
        (lambda: build(model_T={"a/b": TEACHERS["a"]}), ["slash"]),
        (lambda: build().train(optax.sgd(0.1), {"a": [DATA["a"]]}, 1), ["dataloaders", "['b']"]),
        (lambda: build().train(optax.sgd(0.1), loaders(), 1, tau=float("nan")), ["tau"]),
        (lambda: build().train(optax.sgd(0.1), loaders(), 1, batch_postprocessors={"c": 1}),
         ["batch_postprocessors", "'c'"]),
    ):  # fmt: skip
        with pytest.raises(jb.UsageError) as error:
            call()
        assert all(part in str(error.value) for part in parts), error.value
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_loaders_of_unknown_size_are_warned_of():
    streams = {task: (batch for batch in [DATA[task]] * 5) for task in TASKS}
    with pytest.warns(UserWarning, match=r"\['a', 'b'\] are unknown"):
        distiller().train(optax.sgd(0.1), streams, num_steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_tasks_under_one_config_share_their_projections(task, monkeypatch):
    """Lesson: TextBrewer's tasks train one projection, whichever is drawn."""
    monkeypatch.setattr(
        "jaxbrewer.distillers.multi_task.make_draw", lambda *_: lambda step, size: [task] * size
    )
    match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
             "proj": ["linear", 6, 8]}  # fmt: skip
    one = distiller(distill=jb.DistillationConfig(intermediate_matches=[match]))
    one.train(optax.sgd(0.0), loaders(), num_steps=1)
    first = one.projections
    assert jax.tree.map(jnp.shape, first) == {"0": {"kernel": (6, 8), "bias": (8,)}}
    one.train(optax.sgd(0.1), loaders(), num_steps=1)
    assert not np.array_equal(one.projections["0"]["kernel"], first["0"]["kernel"])


@pytest.mark.slow
def test_masks_of_the_students_parameters_train_tasks_with_projections():
    """A projection in the place of a masked parameter is found among those without a gradient."""
    match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
             "proj": ["linear", 6, 8]}  # fmt: skip
    distill = {"a": jb.DistillationConfig(intermediate_matches=[match]),
               "b": jb.DistillationConfig()}  # fmt: skip
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, student_params())
    groups = {"trained": optax.adam(0.1), "frozen": optax.set_to_zero()}
    labels = {"trunk": "trained", "head": {"a": "trained", "b": "frozen"}}
    for optimizer in (optax.adamw(0.1, mask=mask), optax.multi_transform(groups, labels)):
        one = distiller(distill=distill)
        trained, history = one.train(optimizer, loaders(), num_steps=6)
        assert np.isfinite(history["total_loss"]).all()
        assert not np.array_equal(trained["trunk"], student_params()["trunk"])
        assert float(jnp.abs(one.projections["a"]["0"]["bias"]).max()) > 0


@pytest.mark.slow
def test_patience_and_the_best_checkpoint_follow_the_metric_of_one_task(tmp_path):
    scores = {"a/score": (1, 2, 3, 4, 5), "b/score": (3, 4, 4, 2, 5)}
    config = quiet(
        output_dir=tmp_path, ckpt_steps=1, patience=2, keep_best=1, best_metric="b/score"
    )

    def callback(model, step):
        return {name: own[step - 1] for name, own in scores.items()}

    trained = distiller(config).train(optax.sgd(0.1), loaders(), num_steps=5, callback=callback)
    assert list(trained.history["step"]) == [1, 2, 3, 4]  # b's scores after step 2 are no better
    assert best_step(tmp_path, config) == 2
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {"2", "4"}
