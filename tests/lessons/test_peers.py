"""Faults of other JAX toolkits (F1 to F19): none of them occurs here."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer import losses
from jaxbrewer.data.position import checksum
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.objective.projections import apply_projection, init_projection
from jaxbrewer.objective.schedules import weight_schedule
from jaxbrewer.run.loop import plan_training
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

RNG = np.random.default_rng(0)
BATCHES = list(jb.ArrayLoader(vector_data(16), 8, shuffle=False))


def distil(student, teacher, **fields):
    """The total and the metrics of one batch, given what the adaptors return."""
    objective = jb.make_objective(jb.DistillationConfig(**fields))
    compare = jax.jit(lambda S, T: objective(collect(S, "student"), collect(T, "teacher"), {}))
    return compare(student, teacher)


def test_f1_a_constant_added_to_the_logits_changes_nothing():
    student, teacher = RNG.normal(size=(2, 8, 5)).astype(np.float32)
    total, _ = distil({"logits": student}, {"logits": teacher})
    moved, _ = distil({"logits": student}, {"logits": teacher + 100})
    np.testing.assert_allclose(total, moved, rtol=1e-4)
    descend = jax.jit(jax.grad(lambda s: distil({"logits": s}, {"logits": teacher})[0]))
    assert np.all(descend(student) != 0)
    for _ in range(200):
        student = student - 20 * descend(student)
    assert np.all(np.argmax(student, -1) == np.argmax(teacher, -1))


def test_f2_padding_is_not_distilled():
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    teacher = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    student = np.where(mask[..., None], teacher, RNG.normal(size=(2, 3, 4))).astype(np.float32)
    answers = ({"logits": x, "logits_mask": mask} for x in (student, teacher))
    assert distil(*answers, kd_loss_type="mse")[0] == 0


def test_f3_every_metric_reaches_the_history():
    config = jb.DistillationConfig(hard_label_weight=0.5)
    models = (mlp, mlp_params(8, seed=1)), (mlp, mlp_params(3))
    adaptors = logits_adaptor, logits_adaptor
    one = jb.BasicDistiller(quiet(), config, *models, *adaptors)
    history = one.train(optax.sgd(0.1), BATCHES, num_epochs=1).history
    names = {
        f"{kind}_{loss}_loss"
        for kind in ("weighted", "unweighted")
        for loss in ("kd", "hard_label")
    }
    assert history.keys() >= {*names, "total_loss", "grad_norm", "step"}
    assert all(len(values) == 2 for values in history.values())


def test_f4_projections_keep_layers_and_examples_apart():
    params = init_projection(jax.random.key(0), 6, 8)
    assert sum(leaf.size for leaf in params.values()) == 6 * 8 + 8
    states = jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32)
    other = apply_projection(params, states.at[1].add(5.0))
    np.testing.assert_array_equal(other[0], apply_projection(params, states)[0])


@pytest.mark.slow
def test_f5_mass_outside_the_teachers_top_classes_counts():
    teacher = jnp.log(jnp.array([[0.6, 0.3993, 0.0007]]))
    student = jnp.log(jnp.array([[0.00005, 0.00005, 0.9999]]))
    kd = losses.kd_ce_loss(student, teacher) - losses.kd_ce_loss(teacher, teacher)
    p, q = np.exp(np.float64(teacher)), np.exp(np.float64(student))
    np.testing.assert_allclose(kd, np.sum(p * np.log(p / q)), rtol=1e-4)
    assert kd > 9


def test_f6_only_computed_terms_have_metrics():
    config = {"intermediate_matches": [
        {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    ]}  # fmt: skip
    hidden = {"hidden": [np.ones((2, 3, 4), np.float32)]}
    _, metrics = distil(hidden, hidden, **config)
    forms = ("unweighted", "weighted", "count")
    assert metrics.keys() == {"total_loss", *(f"{form}_hidden_hidden_mse_0_0" for form in forms)}


@pytest.mark.filterwarnings("ignore:The last 1 of 25 batches")
def test_f7_schedules_count_steps():
    plan = plan_training(quiet(gradient_accumulation_steps=8), range(25), 2, None)
    assert plan.total_steps == 6
    weight = weight_schedule("linear_decay", 1, plan.total_steps)
    np.testing.assert_allclose([weight(step) for step in range(7)], 1 - np.arange(7) / 6, atol=1e-6)


def test_f9_num_steps_bounds_the_batches_read():
    drawn = []

    def batches():
        for number in range(25):
            drawn.append(number)
            yield BATCHES[0]

    trainer = jb.BasicTrainer(quiet(), (mlp, mlp_params(3)), logits_adaptor)
    history = trainer.train(optax.sgd(0.1), batches(), num_steps=2).history
    assert list(history["step"]) == [1, 2]
    assert len(drawn) == 2


def test_f10_cache_keys_are_the_same_in_every_process():
    assert checksum({"x": np.arange(4, dtype=np.int64)}) == CHECKSUM


CHECKSUM = 874703019


@pytest.mark.slow
def test_f12_losses_of_half_precision_logits_are_computed_in_float32():
    teacher = RNG.normal(size=(64, 10)).astype(np.float32) * 3
    student = teacher + 0.1 * RNG.normal(size=teacher.shape).astype(np.float32)
    halves = [jnp.asarray(x, jnp.bfloat16) for x in (student, teacher)]
    kl = losses.kd_ce_loss(*halves) - losses.kd_ce_loss(halves[1], halves[1])
    assert kl.dtype == jnp.float32
    q, p = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in halves)
    np.testing.assert_allclose(kl, np.mean(np.sum(np.exp(p) * (p - q), -1)), rtol=0.02)


@pytest.mark.slow
def test_f13_a_mask_of_ones_does_not_change_hidden_mse_at_any_width():
    for width in (8, 64):
        student, teacher = RNG.normal(size=(2, 3, 5, width)).astype(np.float32)
        masked = losses.hid_mse_loss(student, teacher, jnp.ones((3, 5)))
        np.testing.assert_allclose(masked, losses.hid_mse_loss(student, teacher), rtol=1e-6)
        np.testing.assert_allclose(masked, 2, rtol=0.3)


def test_f16_every_module_imports_without_warnings():
    """With warnings as errors: neither removed nor deprecated names at import."""
    for module in pkgutil.walk_packages(jb.__path__, "jaxbrewer."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_f17_each_model_runs_once_a_step_in_its_own_precision():
    calls = []

    def model(params, x, train=False):
        calls.append((params["who"].dtype.name, train))
        return {"logits": x @ params["w"].astype(x.dtype)}

    def weights(dtype):
        return {"w": jnp.ones((4, 5), dtype), "who": jnp.zeros((), dtype)}

    def adaptor(batch, outputs):
        return logits_adaptor(batch, outputs["logits"])

    one = jb.BasicDistiller(
        quiet(),
        jb.DistillationConfig(),
        (model, weights(jnp.bfloat16)),
        (model, weights(jnp.float32)),
        adaptor,
        adaptor,
    )
    one.check(optax.sgd(0.1), BATCHES, num_epochs=1)
    assert calls == [("bfloat16", False), ("float32", True)]


def test_f17_unequal_widths_are_refused_with_the_projection_to_add():
    config = {"intermediate_matches": [
        {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    ]}  # fmt: skip
    answers = ({"hidden": [np.ones((2, 3, width), np.float32)]} for width in (4, 6))
    with pytest.raises(
        jb.UsageError, match=r'give the match a projection, "proj": \["linear", 4, 6\]'
    ):
        distil(*answers, **config)


def test_f19_the_weight_of_a_term_does_not_depend_on_the_number_of_tokens():
    student = {"logits": RNG.normal(size=(2, 3, 5)).astype(np.float32),
               "hidden": [RNG.normal(size=(2, 3, 4)).astype(np.float32)]}  # fmt: skip
    teacher = jax.tree.map(lambda x: x + 1 + x**2, student)
    config = {"intermediate_matches": [
        {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    ]}  # fmt: skip
    _, once = distil(student, teacher, **config)
    _, twice = distil(*jax.tree.map(lambda x: np.concatenate([x, x]), (student, teacher)), **config)
    for name, value in once.items():
        times = 2 if name.startswith("count_") else 1
        np.testing.assert_allclose(twice[name], times * value, rtol=1e-5)


@pytest.mark.slow
def test_f14_generalised_jsd_mixes_as_in_the_paper():
    S, T = RNG.normal(size=(2, 6, 4)) * 2
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (T, S))
    for beta in (0.1, 0.5):
        m = beta * p + (1 - beta) * q
        kl = [np.sum(x * np.log(x / m), -1) for x in (p, q)]
        expected = np.mean(beta * kl[0] + (1 - beta) * kl[1])
        np.testing.assert_allclose(losses.jsd_loss(S, T, beta=beta), expected, rtol=1e-4)


def test_f18_kl_has_the_squared_temperature():
    S, T = RNG.normal(size=(2, 6, 4))
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum(-1, keepdims=True) for z in (T, S))
    expected = 9 * np.mean(np.sum(p * np.log(p / q), -1))
    np.testing.assert_allclose(losses.kl_loss(S, T, 3.0), expected, rtol=1e-4)
