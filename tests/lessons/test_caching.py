"""TextBrewer's faults in caching (B.4): none of them occurs here."""

import collections
import random

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.objective.logit_masks import pair_selected
from tests.toys import CLASSES, logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCHES = 12
FEATURES = 11  # no other array here has this width
DATA = vector_data(2 * BATCHES, FEATURES)
SPLIT = [
    {
        "teacher": {"x": DATA["x"][2 * i : 2 * i + 2] * 2, "more": {"labels": DATA["labels"][:2]}},
        "student": {name: value[2 * i : 2 * i + 2] for name, value in DATA.items()},
    }
    for i in range(BATCHES)
]


def teacher_adaptor(batch, outputs):
    assert batch["more"]["labels"].shape == (2,)
    return {"logits": outputs}


@pytest.fixture(scope="module")
def cached():
    """Two trainings of a distiller that caches, counted in steps, on split batches."""
    config = jb.DistillationConfig(is_caching_logits=True, temperature=2)
    calls, held = [], []

    def counted(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return mlp(params, x)

    def count_batches_on_the_device(model, step):
        held.append(sum(array.shape == (2, FEATURES) for array in jax.live_arrays()))

    one = jb.GeneralDistiller(
        quiet(ckpt_steps=5),
        config,
        (counted, mlp_params(4, FEATURES, seed=1)),
        (mlp, mlp_params(3, FEATURES)),
        teacher_adaptor,
        logits_adaptor,
    )
    generators = random.getstate(), np.random.get_state()[1].tolist()
    histories = [
        one.train(optax.sgd(0.0), SPLIT, num_steps=18, callback=count_batches_on_the_device).history
        for _ in range(2)
    ]
    jax.effects_barrier()
    assert generators == (random.getstate(), np.random.get_state()[1].tolist())
    return {"config": config, "histories": histories, "calls": len(calls), "held": held}


@pytest.mark.slow
def test_b14_b21_split_batches_are_cached_in_a_training_by_steps(cached):
    assert cached["calls"] == 2 * BATCHES
    for history in cached["histories"]:
        assert np.isfinite(history["total_loss"]).all()


def test_b15_the_cache_keeps_no_batch_on_the_device(cached):
    assert max(cached["held"]) < BATCHES


def test_b16_nested_entries_of_batches_are_placed_too(cached):
    """The adaptor of the fixture reads a nested entry."""
    assert cached["calls"]


def test_b17_each_training_fills_its_own_cache(cached):
    lengths = [len(history["total_loss"]) for history in cached["histories"]]
    assert lengths == [18, 18]
    first, second = (np.sort(history["total_loss"][:BATCHES]) for history in cached["histories"])
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_b18_the_order_depends_on_the_seed_alone(cached):
    """The fixture checks that no global generator moved; the seed decides the order."""
    first, second = (history["total_loss"] for history in cached["histories"])
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert np.ptp(first) > 0


def test_b20_the_users_config_is_not_changed(cached):
    assert cached["config"] == jb.DistillationConfig(is_caching_logits=True, temperature=2)


@pytest.mark.slow
def test_b19_the_cache_keeps_the_teachers_mask():
    masks = {"mask_S": np.array([[1, 1, 0]] * 2), "mask_T": np.array([[0, 1, 1]] * 2)}
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

    def adaptor(name):
        return lambda batch, outputs: {"logits": outputs, "logits_mask": batch[name]}

    batch = {"x": x, **masks}
    totals = {}
    for caching in (False, True):
        config = jb.DistillationConfig(is_caching_logits=caching, kd_loss_type="mse", temperature=1)
        one = jb.BasicDistiller(
            quiet(), config, (mlp, mlp_params(4, seed=1)), (mlp, mlp_params(3)),
            adaptor("mask_T"), adaptor("mask_S"),
        )  # fmt: skip
        totals[caching] = one.train(optax.sgd(0.0), [batch], num_epochs=1).history["total_loss"][0]
    teacher = mlp(mlp_params(4, seed=1), x)
    paired, compared = pair_selected(teacher, masks["mask_S"], masks["mask_T"])
    gap = (mlp(mlp_params(3), x) - paired)[np.asarray(compared) != 0]
    assert gap.shape == (2, CLASSES)  # where both masks select
    np.testing.assert_allclose([totals[False], totals[True]], np.mean(gap**2), rtol=1e-5)


def test_b3_any_mapping_is_a_batch_of_named_entries():
    batches = [collections.UserDict(x=DATA["x"][:4], labels=DATA["labels"][:4])]
    for caching in (False, True):
        config = jb.DistillationConfig(is_caching_logits=caching)
        models = (mlp, mlp_params(4, FEATURES)), (mlp, mlp_params(3, FEATURES))
        one = jb.BasicDistiller(quiet(), config, *models, logits_adaptor, logits_adaptor)
        one.check(optax.sgd(0.1), batches, num_epochs=1)
