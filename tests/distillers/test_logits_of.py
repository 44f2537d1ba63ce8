"""Trainings whose adaptors return LogitsOf: the weights are those of whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.losses import _chunk_sizes as chunks
from jaxbrewer.losses import fused_cross_entropy
from tests.pages import form, page_block
from tests.toys import quiet

CLASSES, LENGTH, EXAMPLES = 11, 6, 8
IN_CHUNKS = "logits of 24 positions x 11 classes in 4 chunks of 6 positions"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 4 * CLASSES * 6)


def model(width, seed):
    """Token embeddings, a layer, and the embeddings again as head."""
    rng = np.random.default_rng(seed)
    params = {"table": rng.normal(size=(CLASSES, width)), "layer": rng.normal(size=(width, width))}

    def apply(params, ids):
        return {"hidden": jnp.tanh(params["table"][ids] @ params["layer"]), **params}

    return apply, jax.tree.map(np.float32, params)


def fused_adaptor(batch, outputs):
    logits = jb.LogitsOf(outputs["hidden"], outputs["table"], softcap=5.0, tied=True)
    losses = jb.LabelLoss(batch["labels"], batch["mask"])
    return {"logits": logits, "logits_mask": batch["mask"], "losses": losses}


def separate_adaptor(batch, outputs):
    answer = fused_adaptor(batch, outputs)
    logits, labels = answer["logits"], answer["losses"]
    losses = fused_cross_entropy.sum_and_count(logits, labels.labels, labels.mask)
    return {**answer, "losses": losses}


def plain_adaptor(batch, outputs):
    logits = jb.LogitsOf(outputs["hidden"], outputs["table"], softcap=5.0, tied=True).logits()
    losses = fused_cross_entropy.sum_and_count(logits, batch["labels"], batch["mask"])
    return {"logits": logits, "logits_mask": batch["mask"], "losses": losses}


def teacher_adaptor(batch, outputs):
    return {"logits": jb.LogitsOf(outputs["hidden"], outputs["table"], tied=True)}


def batches():
    rng = np.random.default_rng(0)
    shape = EXAMPLES, LENGTH
    data = {
        "ids": rng.integers(0, CLASSES, shape),
        "labels": np.where(rng.random(shape) < 0.4, -100, rng.integers(0, CLASSES, shape)),
        "mask": (np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (EXAMPLES, 1))).astype(int),
    }
    return list(jb.ArrayLoader(data, 4, shuffle=False))


def distiller(adaptor, *, train=quiet, **config):
    given = {"kd_loss_type": "kl", "temperature": 2, "hard_label_weight": 0.5, **config}
    distil = jb.DistillationConfig(**given)
    models = model(5, seed=1), model(3, seed=2)
    return jb.GeneralDistiller(train(), distil, *models, adaptor, adaptor)


def weights_after(one):
    trained = one.train(optax.sgd(0.2), batches(), num_epochs=2).student
    return jax.tree.map(np.asarray, trained)


def assert_equal(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 2e-5, 1e-6), actual, expected)


@pytest.fixture(scope="module")
def expected():
    """The weights that whole logits train."""
    return weights_after(distiller(plain_adaptor))


@pytest.mark.slow
def test_a_training_moves_the_weights_as_whole_logits_do(expected, capsys):
    one = distiller(fused_adaptor, train=lambda: quiet(progress=True))
    plan = one.check(optax.sgd(0.2), batches(), num_epochs=2)
    assert plan.facts == (f"kd_loss of logits[0] and labels: {IN_CHUNKS}",)
    assert form(plan.facts[0]) == form(page_block("adaptors.md", "kd_loss of logits[0]"))
    assert_equal(weights_after(one), expected)
    printed = capsys.readouterr().err
    assert printed.count(f"kd_loss of logits[0] and labels: {IN_CHUNKS}") == 1
    assert one.check(optax.sgd(0.2), batches(), num_epochs=2).facts == plan.facts


@pytest.mark.slow
def test_labels_may_have_chunks_of_their_own(expected):
    one = distiller(separate_adaptor)
    facts = one.check(optax.sgd(0.2), batches(), num_epochs=2).facts
    assert facts == (f"labels: {IN_CHUNKS}", f"kd_loss of logits[0]: {IN_CHUNKS}")
    assert_equal(weights_after(one), expected)


@pytest.mark.slow
def test_a_training_on_labels_alone():
    def trainer(adaptor):
        return jb.BasicTrainer(quiet(), model(3, seed=2), adaptor)

    facts = trainer(fused_adaptor).check(optax.sgd(0.2), batches(), num_epochs=2).facts
    assert facts == (f"labels: {IN_CHUNKS}",)
    assert_equal(*(weights_after(trainer(each)) for each in (fused_adaptor, plain_adaptor)))


def test_labels_of_a_head_that_there_is_not_are_one_line():
    def adaptor(batch, outputs):
        return {**fused_adaptor(batch, outputs), "losses": jb.LabelLoss(batch["labels"], head=1)}

    with pytest.raises(jb.UsageError, match=r"LabelLoss of logits\[1\], but there are 1 'logits'"):
        distiller(adaptor).check(optax.sgd(0.2), batches(), num_epochs=2)


def test_whole_logits_have_no_facts():
    assert distiller(plain_adaptor).check(optax.sgd(0.2), batches(), num_epochs=2).facts == ()


@pytest.mark.slow
def test_accumulation_is_exact():
    """Counts of labels and of positions have other proportions in each micro-batch."""
    trained = [
        weights_after(distiller(each, train=lambda: quiet(gradient_accumulation_steps=2)))
        for each in (fused_adaptor, plain_adaptor)
    ]
    assert_equal(*trained)


@pytest.mark.slow
def test_a_cached_teacher_is_kept_without_its_head(expected):
    assert_equal(weights_after(distiller(fused_adaptor, is_caching_logits=True)), expected)


@pytest.mark.slow
def test_the_largest_logits_are_kept_in_chunks(tmp_path):
    def build(adaptor, name):
        teacher = model(5, seed=1)
        storage = jb.cache.Storage("top_k", k=3, temperatures=(2.0,))
        jb.build_cache(tmp_path / name, teacher, adaptor, batches(), storage=storage)
        cached = distiller(fused_adaptor, train=lambda: quiet(cache_dir=str(tmp_path / name)))
        return weights_after(cached)

    assert_equal(build(fused_adaptor, "fused"), build(plain_adaptor, "plain"))


def test_an_evaluation_makes_no_gradient():
    one = distiller(fused_adaptor)
    objective = jb.make_objective(one.distill_config)
    student, teacher = (jb.from_function(*model(width, seed)) for width, seed in ((3, 2), (5, 1)))
    step = jb.make_eval_step(
        student, teacher, objective, adaptor_S=fused_adaptor, adaptor_T=teacher_adaptor
    )
    state = jb.init_train_state(student, objective, optax.sgd(0.1), seed=0)
    compiled = jax.jit(step).lower(state, teacher.variables, batches()[0]).compile()
    assert compiled.as_text().count(" dot(") == 2 + 2  # both layers, both heads
