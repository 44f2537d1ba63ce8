"""Levels of half precision: which arrays have which dtype, and how far results move."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.errors import NonFiniteError
from jaxbrewer.forward.autocast import autocast
from jaxbrewer.forward.precision import NORMS, policy_of
from jaxbrewer.models import BertConfig, BertForSequenceClassification
from tests.toys import cross_entropy, logits_adaptor, mlp, mlp_params, quiet, vector_data

SIZES = {
    "vocab_size": 40, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 4,
    "max_position_embeddings": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
MATCH = {"layer_T": 0, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
DISTIL = jb.DistillationConfig(
    temperature=2,
    hard_label_weight=1,
    intermediate_matches=[{**MATCH, "proj": ["linear", 16, 24]}],
)
HALVES = {"float16": jnp.float16, "bfloat16": jnp.bfloat16}


def teacher(params, input_ids):
    hidden = params["table"][input_ids] @ params["kernel"]
    return {"logits": hidden.mean(1)[:, :4], "hidden_states": (hidden,)}


rng = np.random.default_rng(0)
draw = rng.normal(scale=0.2, size=(64, 24)).astype(np.float32)
TEACHER = jb.as_model((teacher, {"table": draw[:40], "kernel": draw[40:]}))
CONFIG = BertConfig(num_hidden_layers=1, hidden_size=16, **SIZES)
DATA = {
    "input_ids": rng.integers(0, 40, (16, 6)).astype(np.int32),
    "labels": rng.integers(0, 4, 16).astype(np.int32),
}


@functools.cache
def student():
    return jb.as_model(BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0)))


def adaptor(batch, outputs):
    assert outputs["logits"].dtype == jnp.float32  # losses of a user are float32 without a cast
    return {
        "logits": outputs["logits"],
        "hidden": outputs["hidden_states"],
        "losses": cross_entropy(outputs["logits"], batch["labels"]),
    }


def setup(level, half, optimizer):
    policy = policy_of(jb.TrainingConfig(fp16=True, fp16_opt_level=level, half_dtype=half))
    objective = jb.make_objective(DISTIL)
    rule = jb.make_optimizer(optimizer, objective)
    step = jb.make_train_step(
        student(), TEACHER, objective, rule, adaptor_S=adaptor, adaptor_T=adaptor, precision=policy
    )

    def start():
        return jb.init_train_state(student(), objective, rule, precision=policy)

    return policy, start, step


def dtypes(tree):
    return {
        str(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_every_leaf_is_kept_in_the_dtype_of_the_level_before_and_after_a_step(level, half):
    policy, start, step = setup(level, half, optax.adam(1e-3))
    before = jax.eval_shape(start)
    after, metrics = jax.eval_shape(step, before, TEACHER.variables, DATA)
    kept = half if level == "O3" else "float32"
    for state in (before, after):
        assert dtypes(state.trainable) == {kept}
        assert dtypes(state.opt_state) == {kept}
        assert (state.loss_scale is not None) == (half == "float16" and level in ("O1", "O2"))
    assert jax.tree.map(lambda x: x.dtype, before) == jax.tree.map(lambda x: x.dtype, after)
    assert dtypes(metrics) == {"float32"}
    seen = jax.eval_shape(policy.cast_weights, before.params)
    norms, others = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(seen):
        (norms if NORMS.search(jax.tree_util.keystr(path)) else others).append(leaf)
    assert len(norms) == 6
    assert dtypes(others) == {half if level in ("O2", "O3") else "float32"}
    assert dtypes(norms) == {half if level == "O3" else "float32"}


def operations(level, half):
    """For each kind of operation in the student's forward pass, the dtypes of its results."""
    policy, _, _ = setup(level, half, optax.sgd(1.0))

    def forward(params, batch):
        return policy.run(
            lambda params, batch: student().apply(params, {}, batch, train=True),
            policy.cast_weights(params),
            batch,
        )

    text = str(jax.make_jaxpr(forward)(student().params, DATA))
    found = {}
    for dtype, name in re.findall(r":(b?f\d+)\[[\d,]*\] = (\w+)", text):
        found.setdefault(name, set()).add(dtype)
    return found


@pytest.mark.parametrize(("half", "short"), [("float16", "f16"), ("bfloat16", "bf16")])
def test_products_are_half_and_norms_and_softmax_are_float32(half, short):
    for level in ("O1", "O2"):
        found = operations(level, half)
        assert found["dot_general"] == {short}
        assert found["exp"] == found["rsqrt"] == found["reduce_max"] == {"f32"}
    assert short not in operations("O1", half)["tanh"]
    assert operations("O3", half)["dot_general"] >= {short}
    assert operations("O0", half)["dot_general"] == {"f32"}


def test_products_are_half_under_any_default_precision_of_jax():
    with jax.default_matmul_precision("highest"):
        assert operations("O1", "bfloat16")["dot_general"] == {"bf16"}


@functools.cache
def trajectory(level, half):
    _, start, step = setup(level, half, optax.sgd(0.05, momentum=0.9))
    jitted, state, losses = jax.jit(step), start(), []
    for _ in range(20):
        state, metrics = jitted(state, TEACHER.variables, DATA)
        losses.append(float(metrics["total_loss"]))
    return np.array(losses)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "half", "bound"),
    [
        ("O1", "float16", 1e-3),
        ("O2", "float16", 1e-3),
        ("O2", "bfloat16", 6e-3),
        ("O3", "bfloat16", 6e-3),
    ],
)
def test_half_precision_tracks_float32(level, half, bound):
    """The losses of 20 steps stay within the relative bound in docs/scaling.md."""
    expected, actual = trajectory("O0", "float16"), trajectory(level, half)
    assert expected[-1] < 0.9 * expected[0]
    np.testing.assert_allclose(actual, expected, rtol=bound)
    assert np.abs(actual / expected - 1).max() > 1e-6  # it is computed in another precision


@pytest.mark.slow
def test_autocast_reaches_into_loops_branches_and_checkpoints():
    def function(x, w, kernel):
        def body(h, _):
            return jax.checkpoint(lambda h: jnp.tanh(h @ w))(h), jnp.sum(h)

        h, sums = jax.lax.scan(body, x, None, length=3)
        h = jax.lax.cond(sums[0] > 0, lambda h: h @ w, lambda h: h, h)
        h = jax.lax.fori_loop(0, 2, lambda _, h: jnp.einsum("ij,jk->ik", h, w), h)
        image = jax.lax.conv_general_dilated(jax.nn.relu(h)[None, None], kernel, (1, 1), "SAME")
        return {"y": jax.nn.softmax(image), "none": None}

    draw = jax.random.split(jax.random.key(0), 3)
    shapes = [(4, 4), (4, 4), (1, 1, 3, 3)]
    args = [0.3 * jax.random.normal(key, shape) for key, shape in zip(draw, shapes, strict=True)]
    half = autocast(function, jnp.float16)
    gradient = jax.grad(lambda *args: jnp.sum(half(*args)["y"] ** 2), argnums=(0, 1, 2))
    text = str(jax.make_jaxpr(gradient)(*args))
    found = re.findall(r":(\w+)\[[\d,]*\] = (dot_general|conv_general_dilated)", text)
    assert {dtype for dtype, _ in found} == {"f16"}
    assert len(found) >= 10
    outputs = half(*args)
    assert outputs["none"] is None
    np.testing.assert_allclose(outputs["y"], function(*args)["y"], atol=1e-3)


def test_autocast_keeps_products_with_an_explicit_precision():
    x = jnp.full((2, 2), 1 + 2**-12)
    exact = autocast(lambda x: jnp.matmul(x, x, precision="highest"), jnp.bfloat16)(x)
    np.testing.assert_array_equal(exact, x @ x)
    ids = jnp.eye(2, dtype=jnp.int32)
    assert autocast(lambda x: x @ x, jnp.bfloat16)(ids).dtype == jnp.int32


def test_a_training_that_skips_every_step_raises():
    config = quiet(fp16=True)
    batches = [{**batch, "x": batch["x"] * 1e30} for batch in jb.ArrayLoader(vector_data(8), 8)]
    models = [(mlp, mlp_params(8, seed=1)), (mlp, mlp_params(4))]
    distiller = jb.BasicDistiller(config, DISTIL_LOGITS, *models, logits_adaptor, logits_adaptor)
    with pytest.raises(
        NonFiniteError, match="25th in a row that was skipped.*half_dtype='bfloat16'"
    ):
        distiller.train(optax.sgd(0.1), batches, num_steps=300)


DISTIL_LOGITS = jb.DistillationConfig(temperature=2, hard_label_weight=1)


class Opaque:
    pass


def test_outputs_that_are_not_arrays_are_named():
    def model(params, x):
        return {"logits": x @ params["w"], "kind": Opaque()}

    trainer = jb.BasicTrainer(quiet(fp16=True), (model, {"w": jnp.ones((4, 5))}), logits_adaptor)
    with pytest.raises(jb.UsageError, match="returned Opaque: half precision needs outputs"):
        trainer.train(optax.sgd(0.1), [vector_data(8)], num_epochs=1)
