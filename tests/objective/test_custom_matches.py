"""Matches of any submodule by its path: NNX and Linen, in jit, gradients, accumulation, dropout."""

import functools
import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs
from jaxbrewer.step.resolve_matches import resolve_matches
from tests.toys import CLASSES, logits_adaptor, quiet, vector_data

DATA = vector_data(12)


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.dense = nnx.Linear(width, width, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.drop(jnp.tanh(self.dense(x)))


class Net(nnx.Module):
    """Blocks in a list; ``part`` returns a tuple; the last block runs under remat."""

    def __init__(self, width, blocks, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(4, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(blocks)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        x = jnp.tanh(nn.Dense(x.shape[-1], name="dense")(x))
        return nn.Dropout(0.1)(x, deterministic=deterministic)


class LinenNet(nn.Module):
    width: int
    blocks: int

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Dense(self.width, name="first")(x)
        for index in range(self.blocks):
            x = LinenBlock(name=f"block_{index}")(x, deterministic)
        x = nn.BatchNorm(use_running_average=deterministic, name="norm")(x)
        return nn.Dense(CLASSES, name="head")(x)


def linen(width, blocks, seed=0):
    module = LinenNet(width, blocks)
    return module, module.init(jax.random.key(seed), DATA["x"])


MATCHES = {
    "nnx": [
        {"module_T": "blocks.*.dense", "module_S": "blocks.*.dense", "proj": "linear"},
        {"module_T": "blocks.1", "module_S": "blocks.0", "proj": "tanh", "weight": 0.5},
    ],
    "linen": [
        {"module_T": "block_*.dense", "module_S": "block_*.dense", "proj": "linear"},
        {"module_T": "block_1", "module_S": "block_0", "proj": "tanh", "weight": 0.5},
    ],
}
MODELS = {
    "nnx": lambda: (Net(6, 2, seed=1), Net(3, 2)),
    "linen": lambda: (linen(6, 2, seed=1), linen(3, 2)),
}
NAMES = {
    "nnx": "custom_hidden_mse_blocks.1.dense_blocks.1.dense",
    "linen": "custom_hidden_mse_block_1.dense_block_1.dense",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_any_module_is_matched_and_left_unchanged(kind):
    teacher, student = MODELS[kind]()
    before = Block.__call__
    distiller = jb.GeneralDistiller(
        quiet(gradient_accumulation_steps=2), jb.DistillationConfig(temperature=2),
        teacher, student, logits_adaptor, logits_adaptor, custom_matches=MATCHES[kind],
    )  # fmt: skip
    batches = list(jb.ArrayLoader(DATA, 6, shuffle=False))
    history = distiller.train(optax.adam(0.03), batches, num_epochs=25).history
    losses = {name: values for name, values in history.items() if "unweighted_custom" in name}
    assert len(losses) == 3
    assert f"unweighted_{NAMES[kind]}" in losses
    for name, values in losses.items():
        assert values[-1] < 0.7 * values[0], name
    shapes = jax.tree.map(jnp.shape, distiller.projections)
    assert set(shapes) == {"custom_0", "custom_1", "custom_2"}
    assert shapes["custom_0"] == {"bias": (6,), "kernel": (3, 6)}
    assert Block.__call__ is before
    if kind == "nnx":
        assert not any("captured" in name for name in vars(student.blocks[0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_compared_is_what_the_module_returns(kind):
    teacher = jb.as_model(MODELS[kind]()[0])
    adapt = functools.partial(
        resolve_matches, adaptor_S=logits_adaptor, adaptor_T=logits_adaptor, batch=DATA
    )
    matches = [{**MATCHES[kind][1], "proj": None, "loss": _distance, "teacher": 0}]
    matches[0]["module_T"] = matches[0]["module_S"] = "first"
    config, _ = adapt(
        jb.DistillationConfig(custom_matches=matches), student=teacher, teacher=teacher
    )
    objective = jb.make_objective(config)
    rule = jb.make_optimizer(optax.sgd(0.1), objective)
    other = jax.tree.map(lambda leaf: leaf + 0.1, teacher.params)
    step = jb.make_train_step(
        teacher, teacher, objective, rule, adaptor_S=logits_adaptor, adaptor_T=logits_adaptor
    )
    state = jb.init_train_state(teacher, objective, rule)
    _, metrics = jax.jit(step)(state, {**teacher.variables, "params": other}, DATA)
    by_hand = [
        DATA["x"] @ params["first"]["kernel"] + params["first"]["bias"]
        for params in (teacher.params, other)
    ]
    np.testing.assert_allclose(
        metrics["unweighted_custom__distance_first_first"],
        np.abs(by_hand[0] - by_hand[1]).max(),
        rtol=1e-5,
    )


def _distance(state_S, state_T, mask=None):
    return jnp.max(jnp.abs(state_S - state_T))


@pytest.mark.parametrize(
    ("places", "masked"), [((3, 4), True), ((12,), True), ((3,), False), ((), False)]
)
def test_the_mask_selects_the_modules_positions_where_it_has_them(places, masked):
    """Tokens in rows or laid end to end; what has no tokens has no padding either."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (3, 4))
    student, teacher = (np.float32(rng.normal(size=(*places, 5))) for _ in range(2))
    config = jb.DistillationConfig(
        custom_matches=[{"module_S": "s", "module_T": "t", "loss": "hidden_mse", "weight": 1}]
    )
    (term,) = (
        jb.make_objective(config)
        .terms(
            Outputs(modules={"s": student}, inputs_mask=jnp.asarray(mask)),
            Outputs(modules={"t": teacher}),
            {},
        )
        .values()
    )
    kept = mask.reshape(places) != 0 if masked else np.ones(places, bool)
    expected = np.mean((student[kept] - teacher[kept]) ** 2)
    np.testing.assert_allclose(term[0].value(), expected, rtol=1e-5)


def test_captured_arrays_do_not_outlive_the_call():
    net = Net(6, 2)
    model = jb.as_model(net)
    apply = model.capturing(lambda path: path == "blocks.0")
    (_, captured), _ = apply(model.params, model.state, DATA, train=False)
    alive = weakref.ref(captured["blocks.0"])
    assert alive() is not None
    del captured
    gc.collect()
    assert alive() is None


def test_modules_under_remat_and_jit_are_seen():
    class Wrapped(nnx.Module):
        def __init__(self):
            self.blocks = nnx.List([nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2)])

        def __call__(self, x):
            x = nnx.remat(lambda block, x: block(x))(self.blocks[0], x)
            return nnx.jit(lambda block, x: block(x))(self.blocks[1], x)

    class LinenWrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat(nn.Dense)(4, name="inner")(x)

    linen_net = LinenWrapped()
    linen_pair = (linen_net, linen_net.init(jax.random.key(0), DATA["x"]))
    for model, paths in ((Wrapped(), ["blocks.0", "blocks.1"]), (linen_pair, ["inner"])):
        model = jb.as_model(model)
        apply = model.capturing(paths.__contains__)

        def loss(params, model=model, apply=apply):
            (out, captured), _ = apply(params, model.state, DATA, train=True)
            return jnp.sum(out) + sum(jnp.sum(x) for x in captured.values()), captured

        gradient, captured = jax.jit(jax.grad(loss, has_aux=True))(model.params)
        assert sorted(captured) == paths
        assert any(leaf.any() for leaf in jax.tree.leaves(gradient))


def refused(custom, teacher=None, student=None, batch=DATA):
    distiller = jb.GeneralDistiller(
        quiet(), jb.DistillationConfig(custom_matches=[custom]),
        teacher or Net(6, 2), student or Net(3, 2), logits_adaptor, logits_adaptor,
    )  # fmt: skip
    with pytest.raises(jb.UsageError) as error:
        distiller.check(optax.sgd(0.1), [batch], num_epochs=1)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mismatches_are_refused_in_one_line():
    match = {"module_T": "blocks.0", "module_S": "blocks.0", "proj": "linear"}
    message = refused({**match, "module_S": "block.0.dens"})
    says = "custom_matches[0]: module_S 'block.0.dens' is no module; the nearest: 'blocks.0.dense'"
    assert says in message
    assert "equally many" in refused({**match, "module_S": "blocks.*"})
    assert '"proj": "linear"' in refused({**match, "proj": None})
    assert "plain function" in refused(
        match, student=(lambda params, x: x @ params, jnp.ones((4, 5)))
    )
    cached = {**DATA, "teacher_cache": jnp.ones((12, CLASSES))}
    assert "'teacher_cache', which does not hold them" in refused(match, batch=cached)
    with pytest.raises(jb.UsageError, match="CustomMatch.loss 'mse'"):
        jb.CustomMatch("a", "b", loss="mse")
    assert (
        jb.CustomMatch.from_dict(
            {"module_T": "a", "module_S": "b", "weight": 1, "loss": "cos", "proj_func": "tanh"}
        ).proj
        == "tanh"
    )


def test_custom_matches_refuse_a_cached_teacher():
    lesson = jb.DistillationConfig(custom_matches=MATCHES["nnx"], is_caching_logits=True)
    with pytest.raises(jb.UsageError, match="custom_matches need the teacher itself"):
        jb.GeneralDistiller(quiet(), lesson, Net(6, 2), Net(3, 2), logits_adaptor, logits_adaptor)
