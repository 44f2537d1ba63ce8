"""Several tasks: the draw, positions, parameters without a gradient, metrics, compilations."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.distillers.task_sampling import make_draw, task_groups, task_probabilities
from jaxbrewer.step.unused_parameters import depends_on, skip_absent
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


def test_tasks_are_drawn_by_their_examples_to_the_power_of_tau():
    """Lesson B.5, 26: batches were counted, not examples."""
    sizes = {"a": 400, "b": 100}
    assert task_probabilities(sizes, 1) == pytest.approx({"a": 0.8, "b": 0.2})
    assert task_probabilities(sizes, 0) == {"a": 0.5, "b": 0.5}
    draw = make_draw({"a": 0.8, "b": 0.2}, seed=0)
    drawn = [task for update in range(500) for task in draw(update, 2)]
    assert abs(drawn.count("a") / 1000 - 0.8) < 0.03


def test_the_draw_is_a_function_of_seed_and_update_alone():
    first, again = (make_draw({"a": 0.5, "b": 0.5}, seed=3) for _ in range(2))
    np.random.seed(0)  # lesson B.5, 27: the global generator was used
    assert [first(n, 3) for n in range(20)] == [again(n, 3) for n in reversed(range(20))][::-1]
    other = make_draw({"a": 0.5, "b": 0.5}, seed=4)
    assert [first(n, 3) for n in range(20)] != [other(n, 3) for n in range(20)]


def test_groups_go_on_after_any_position():
    def stream(start=None):
        draw = make_draw({"a": 0.6, "b": 0.4}, seed=0)
        return task_groups(loaders(seed=5), 2, draw, start=start)

    groups = [group for group, _ in zip(stream(), range(12), strict=False)]
    for at in (0, 3, 7):
        position = json.loads(json.dumps(groups[at].position))
        rest = stream(position)
        for group in groups[at + 1 :]:
            jax.tree.map(np.testing.assert_array_equal, next(rest).batches, group.batches)


def test_what_a_loss_depends_on_is_found_through_jit_scan_and_remat():
    def function(params, x):
        @jax.jit
        def both(p):
            return p["a"] * x, p["b"] * x

        left, _ = both(params)
        out, _ = jax.lax.scan(lambda c, _: (c * params["c"], None), left, None, length=2)
        return jnp.sum(jax.checkpoint(lambda y: y + 0 * params["zero"])(out))

    params = dict.fromkeys(("a", "b", "c", "zero", "never"), 1.0)
    found = depends_on(function, params, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert found == {"a": True, "b": False, "c": True, "zero": True, "never": False}


def adamw_by_hand(gradients, schedule):
    """One parameter's AdamW in PyTorch: steps without a gradient do not exist for it."""
    w, m, v, t = 1.0, 0.0, 0.0, 0
    for update, g in enumerate(gradients):
        if g is None:
            continue
        t += 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w -= schedule(update) * (step + 0.1 * w)
    return w


def test_without_a_gradient_neither_moments_nor_decay_move_a_parameter():
    def schedule(count):
        return 0.1 - 0.01 * count

    present = {task: {"both": True, "own": {t: t == task for t in TASKS}} for task in TASKS}
    inner = {"student": optax.adamw(schedule, weight_decay=0.1)}
    rule = skip_absent(optax.partition(inner, "student"), present)
    params = {"both": jnp.ones(()), "own": dict.fromkeys(TASKS, jnp.ones(()))}

    @jax.jit
    def three_more(params, state):
        for task, g in zip("aba", (0.5, -0.3, 0.2), strict=True):
            gradient = jax.tree.map(lambda is_in, g=g: jnp.where(is_in, g, 0.0), present[task])
            updates, state = rule.update(gradient, state, params, present=[task])
            params = optax.apply_updates(params, updates)
        return params, state

    params, state = three_more(params, rule.init(params))
    params, state = three_more(params, state)
    gs = [0.5, -0.3, 0.2] * 2
    expected = {
        "both": adamw_by_hand(gs, schedule),
        "own": {
            "a": adamw_by_hand([g if i % 3 != 1 else None for i, g in enumerate(gs)], schedule),
            "b": adamw_by_hand([g if i % 3 == 1 else None for i, g in enumerate(gs)], schedule),
        },
    }
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), params, expected)


def test_a_head_without_a_batch_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(
        "jaxbrewer.distillers.multi_task.make_draw", lambda *_: lambda update, size: ["a"] * size
    )
    before = student_params()
    trained, history = distiller().train(optax.adamw(0.1), loaders(), num_steps=3)
    np.testing.assert_array_equal(trained["head"]["b"], before["head"]["b"])
    assert not np.array_equal(trained["head"]["a"], before["head"]["a"])
    assert not any(name.startswith("b/") for name in history)


def test_one_compilation_per_task_and_shape_and_metrics_with_the_tasks_name():
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


def test_what_each_term_of_each_task_counts_is_told_before_the_first_update(capsys):
    distill = {"a": jb.DistillationConfig(temperature=2),
               "b": jb.DistillationConfig(kd_loss_type="kl", hard_label_weight=0.5)}  # fmt: skip
    distiller(quiet(progress=True), distill).train(optax.sgd(0.1), loaders(), num_steps=1)
    assert capsys.readouterr().err.splitlines()[0] == (
        "effective weights at step 0: a/kd_loss 0.25 (1 / T^2, T = 2), a/hard_label_loss 0, "
        "b/kd_loss 1, b/hard_label_loss 0.5"
    )


def test_each_task_has_its_config_and_may_have_several_teachers():
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


@pytest.mark.slow
def test_a_groups_loss_is_the_mean_of_its_batches_whatever_their_tasks():
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


def test_what_does_not_fit_is_refused_in_one_line():
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


def test_sizes_that_are_unknown_are_said():
    streams = {task: (batch for batch in [DATA[task]] * 5) for task in TASKS}
    with pytest.warns(UserWarning, match=r"\['a', 'b'\] are unknown"):
        distiller().train(optax.sgd(0.1), streams, num_steps=3)
