"""Matches of any submodule by its path: NNX and Linen, in jit, gradients, accumulation, dropout."""

import functools
import gc
import warnings
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
def test_the_modules_return_value_is_compared(kind):
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
    optimizer = jb.make_optimizer(optax.sgd(0.1), objective)
    other = jax.tree.map(lambda leaf: leaf + 0.1, teacher.params)
    step = jb.make_train_step(
        teacher, teacher, objective, optimizer, adaptor_S=logits_adaptor, adaptor_T=logits_adaptor
    )
    state = jb.init_train_state(teacher, objective, optimizer)
    _, metrics = jax.jit(step)(state, {**teacher.variables, "params": other}, DATA)
    by_hand = [
        affine(DATA["x"], params["first"]["kernel"], params["first"]["bias"])
        for params in (teacher.params, other)
    ]
    np.testing.assert_allclose(
        metrics["unweighted_custom__distance_first_first"],
        np.abs(by_hand[0] - by_hand[1]).max(),
        rtol=1e-5,
    )


def affine(x, kernel, bias):
    return np.asarray(x) @ np.asarray(kernel) + np.asarray(bias)


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


def term(state_S, state_T, loss="hidden_mse", student=None, teacher=None):
    """The loss of a match between two states, with these entries of the adaptors."""
    config = jb.DistillationConfig(
        custom_matches=[{"module_S": "s.0", "module_T": "t.0", "loss": loss, "weight": 1}]
    )
    given_S = Outputs(modules={"s.0": jnp.asarray(state_S)}, **(student or {}))
    given_T = Outputs(modules={"t.0": jnp.asarray(state_T)}, **(teacher or {}))
    ((mean,), *checks) = jb.make_objective(config).terms(given_S, given_T, {}, 0).values()
    assert not any(check.value() for (check,) in checks)
    return mean.value()


RNG = np.random.default_rng(1)
MASK = np.arange(4) < np.array([[4], [2], [1]])
OF_FIVE = np.concatenate([np.ones((3, 1), bool), MASK], axis=1)  # a class token in front


@pytest.mark.parametrize("shape", [(3, 5, 6), (4, 3, 6), (2, 3, 4, 6), (3, 2, 2, 6), (7, 6)])
def test_a_mask_that_does_not_cover_a_modules_positions_is_refused(shape):
    """A class token, strides, time first, a stack of layers, pictures, end to end."""
    x = RNG.normal(size=shape)
    says = r"inputs_mask \(3, 4\) does not cover the positions of what 's.0' .*'modules_mask'"
    for side in ("student", "teacher"):
        with pytest.raises(jb.UsageError, match=says):
            term(x, x, **{side: {"inputs_mask": jnp.asarray(MASK)}})


@pytest.mark.parametrize(
    ("side", "key"), [("student", "s.0"), ("student", "s.*"), ("teacher", "t.0"), ("teacher", "*")]
)
def test_an_adaptor_gives_a_module_its_own_mask(side, key):
    x_S, x_T = np.float32(RNG.normal(size=(2, 3, 5, 6)))
    entries = {"modules_mask": {key: jnp.asarray(OF_FIVE)}, "inputs_mask": jnp.asarray(MASK)}
    expected = np.mean((x_S - x_T)[OF_FIVE] ** 2)
    x_S[~OF_FIVE] = np.nan
    np.testing.assert_allclose(term(x_S, x_T, **{side: entries}), expected, rtol=1e-5)
    flat = term(x_S.reshape(15, 6), x_T.reshape(15, 6), **{side: entries})
    np.testing.assert_allclose(flat, expected, rtol=1e-5)
    with pytest.raises(jb.UsageError, match=r"modules_mask\[.*\] \(3, 5\) does not fit"):
        term(x_S[:, :4], x_T[:, :4], **{side: entries})


def test_none_in_modules_mask_counts_all_positions():
    x_S, x_T = np.float32(RNG.normal(size=(2, 3, 5, 6)))
    entries = {"modules_mask": {"s.0": None}, "inputs_mask": jnp.asarray(MASK)}
    np.testing.assert_allclose(
        term(x_S, x_T, student=entries), np.mean((x_S - x_T) ** 2), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 2])
def test_a_mask_of_tokens_covers_their_attention(heads):
    x_S, x_T = np.float32(RNG.normal(size=(2, 3, heads, 4, 4)))
    entries = {"inputs_mask": jnp.asarray(MASK)}
    expected = term(x_S, x_T, "attention_mse", student=entries)
    hidden = ~(MASK[:, None, :, None] & MASK[:, None, None, :])
    x_S = np.where(hidden, 1e3, x_S)
    np.testing.assert_allclose(term(x_S, x_T, "attention_mse", student=entries), expected)


@pytest.mark.parametrize("loss", ["hidden_mse", "pkd", "cos"])
def test_tokens_end_to_end_are_compared_with_tokens_in_rows(loss):
    """The package's own BERT against anyone's."""
    rows_S, rows_T = np.float32(RNG.normal(size=(2, 3, 4, 6)))
    flat_S, flat_T = (x.reshape(12, 6) for x in (rows_S, rows_T))
    for entries in ({}, {"inputs_mask": jnp.asarray(MASK)}):
        expected = term(rows_S, rows_T, loss, student=entries)
        pairs = [(flat_S, rows_T), (rows_S, flat_T)] + [(flat_S, flat_T)] * bool(entries)
        for pair in pairs:
            np.testing.assert_allclose(term(*pair, loss, student=entries), expected, rtol=1e-6)


@pytest.mark.slow
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


@pytest.mark.slow
def test_values_that_an_earlier_call_left_in_a_module_change_nothing():
    class Sowing(Net):
        def __call__(self, x):
            hidden = self.first(x)
            self.sow(nnx.Intermediate, "kept", hidden)
            return self.head(hidden)

    fresh, net = jb.as_model(Sowing(3, 1)), Sowing(3, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flax: sow outside of capture
        net(DATA["x"][:2])
    used = jb.as_model(net)
    for model in (fresh, used):
        assert "kept" not in model.state
    outputs = [
        model.capturing(lambda path: path == "first")(model.params, model.state, DATA, train=train)
        for model in (fresh, used)
        for train in (True, False)
    ]
    for (out, captured), _ in outputs:
        assert captured["first"].shape == (12, 3)
        np.testing.assert_array_equal(out, outputs[0][0][0])


@pytest.mark.slow
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


class Several(nnx.Module):
    """Layers that return what modules return: a tuple, a dict, a stack of layers."""

    def __init__(self, seed):
        make = nnx.split_rngs(splits=2)(nnx.vmap(lambda rngs: nnx.Linear(4, 4, rngs=rngs)))
        self.stack = make(nnx.Rngs(seed))
        self.cached, self.named = Returns(lambda x: (None, x)), Returns(lambda x: {"h": x, "n": 2})
        self.two = Returns(lambda x: ({"a": x[:, :1]}, {"a": x, "b": 2 * x}))
        self.head = nnx.Linear(4, CLASSES, rngs=nnx.Rngs(seed))

    def __call__(self, x):
        x = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
            self.stack, x
        )
        return self.head(self.two(self.named(self.cached(x)[1])["h"])[1]["b"])


class Returns(nnx.Module):
    def __init__(self, output):
        self.output = output

    def __call__(self, x):
        return self.output(x)


ELEMENTS = {
    "stack[0]": lambda first, last: first,
    "stack[-1]": lambda first, last: last,
    "cached": lambda first, last: last,
    "cached:1": lambda first, last: last,
    "named": lambda first, last: last,
    "named:h": lambda first, last: last,
    "two:1:b": lambda first, last: 2 * last,
    "two:0": lambda first, last: last[:, :1],
}


@pytest.mark.slow
def test_a_path_selects_an_element_of_a_modules_return_value():
    teacher, student = Several(0), Several(1)
    matches = [{"module_T": address, "module_S": address} for address in ELEMENTS]
    distiller = jb.GeneralDistiller(
        quiet(), jb.DistillationConfig(custom_matches=matches),
        teacher, student, logits_adaptor, logits_adaptor,
    )  # fmt: skip
    history = distiller.train(optax.sgd(0.0), [DATA], num_epochs=1).history
    layers = []
    for net in (teacher, student):
        first = affine(DATA["x"], net.stack.kernel[0], net.stack.bias[0])
        layers.append((first, affine(first, net.stack.kernel[1], net.stack.bias[1])))
    for address, value in ELEMENTS.items():
        np.testing.assert_allclose(
            history[f"unweighted_custom_hidden_mse_{address}_{address}"][0],
            np.mean((value(*layers[0]) - value(*layers[1])) ** 2),
            rtol=1e-4,
            err_msg=address,
        )


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("two", "returns tuple .*; a custom match compares one array, chosen by 'two:name'"),
        ("two:1", "returns dict .a: .12, 4., b: .12, 4..; .* chosen by 'two:1:a'"),
        ("named:hidden", "'hidden' is no entry of what the module returns there, dict .h: .12, 4."),
        ("stack[2]", r"2 is out of range for an array \(2, 12, 4\)"),
        ("cached:2", "'2' is no entry of"),
        ("cached:0", "returns NoneType"),
        ("stack[last]", "CustomMatch.module_T: 'stack.last.' is no path of a module"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(address, says):
    with pytest.raises(jb.UsageError, match=says) as error:
        jb.GeneralDistiller(
            quiet(),
            jb.DistillationConfig(custom_matches=[{"module_T": address, "module_S": address}]),
            Several(0), Several(1), logits_adaptor, logits_adaptor,
        ).check(optax.sgd(0.0), [DATA], num_epochs=1)  # fmt: skip
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"params": 0}, {"params": 0, "intermediates": 0}])
def test_a_layer_of_a_linen_scan(axes):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(4)(x), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=2)
            return nn.Dense(CLASSES, name="head")(scan(name="layers")(x, None)[0])

    pairs = [(Net(), Net().init(jax.random.key(seed), DATA["x"])) for seed in range(2)]
    match = {"module_T": "layers[0]", "module_S": "layers[1]"}
    if "intermediates" not in axes:
        assert "variable_axes={..., 'intermediates': 0}" in refused(match, *pairs)
        return
    distiller = jb.GeneralDistiller(
        quiet(), jb.DistillationConfig(custom_matches=[match]), *pairs, logits_adaptor,
        logits_adaptor,
    )  # fmt: skip
    history = distiller.train(optax.sgd(0.0), [DATA], num_epochs=1).history
    layers = [pair[1]["params"]["layers"]["Dense_0"] for pair in pairs]
    of_T = affine(DATA["x"], layers[0]["kernel"][0], layers[0]["bias"][0])
    of_S = DATA["x"]
    for kernel, bias in zip(layers[1]["kernel"], layers[1]["bias"], strict=True):
        of_S = affine(of_S, kernel, bias)
    (name,) = [name for name in history if name.startswith("unweighted_custom")]
    np.testing.assert_allclose(history[name][0], np.mean((of_S - of_T) ** 2), rtol=1e-4)


def refused(custom, teacher=None, student=None, batch=DATA):
    distiller = jb.GeneralDistiller(
        quiet(), jb.DistillationConfig(custom_matches=[custom]),
        teacher or Net(6, 2), student or Net(3, 2), logits_adaptor, logits_adaptor,
    )  # fmt: skip
    with pytest.raises(jb.UsageError) as error:
        distiller.check(optax.sgd(0.1), [batch], num_epochs=1)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_mismatches_are_refused_in_one_line():
    match = {"module_T": "blocks.0", "module_S": "blocks.0", "proj": "linear"}
    message = refused({**match, "module_S": "block.0.dens"})
    says = (
        "custom_matches[0]: module_S 'block.0.dens' is not a module; the nearest: 'blocks.0.dense'"
    )
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
    distill_config = jb.DistillationConfig(custom_matches=MATCHES["nnx"], is_caching_logits=True)
    with pytest.raises(jb.UsageError, match="custom_matches need the teacher itself"):
        jb.GeneralDistiller(
            quiet(), distill_config, Net(6, 2), Net(3, 2), logits_adaptor, logits_adaptor
        )
