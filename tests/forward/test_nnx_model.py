"""NNX modules of every kind run: split streams, keys as arguments, sown values, own mode flags."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from tests.toys import CLASSES, NnxMLP, logits_adaptor, quiet, vector_data

BATCH = vector_data(16)
X = BATCH["x"]


class Balance(nnx.Variable):
    pass


class Block(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(6, 6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(self.layer(x))


class Scanned(nnx.Module):
    """Layers made by ``nnx.vmap`` with a stream each, run by ``nnx.scan``."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        make = nnx.split_rngs(splits=3)(nnx.vmap(Block, in_axes=0, out_axes=0))
        self.first, self.blocks = nnx.Linear(4, 6, rngs=rngs), make(rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        run = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(run(self.first(x), self.blocks))


class Vmapped(nnx.Module):
    """An ensemble of dropout networks, run by ``nnx.vmap``."""

    def __init__(self, seed):
        make = nnx.vmap(
            lambda rngs: nnx.Sequential(
                nnx.Linear(4, CLASSES, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
            ),
            in_axes=0,
            out_axes=0,
        )
        self.nets = nnx.split_rngs(splits=2)(make)(nnx.Rngs(seed))

    def __call__(self, x):
        return nnx.vmap(lambda net, x: net(x), in_axes=(0, None))(self.nets, x).mean(0)


class CallRngs(nnx.Module):
    """Dropout whose streams come with the call, as in Flax's examples."""

    def __init__(self, seed):
        self.layer, self.drop = nnx.Linear(4, CLASSES, rngs=nnx.Rngs(seed)), nnx.Dropout(0.5)

    def __call__(self, x, *, rngs=None):
        return self.drop(self.layer(x), rngs=rngs)


class RequiredRngs(CallRngs):
    def __call__(self, x, rngs: nnx.Rngs):
        return self.drop(self.layer(x), rngs=rngs)


class Sowing(nnx.Module):
    def __init__(self, seed):
        self.layer = nnx.Linear(4, CLASSES, rngs=nnx.Rngs(seed))
        self.norm = nnx.BatchNorm(CLASSES, rngs=nnx.Rngs(0))

    def __call__(self, x):
        hidden = self.layer(x)
        self.sow(Balance, "balance", jnp.mean(hidden**2))
        self.sow(nnx.Intermediate, "hidden", hidden)
        return self.norm(hidden)


RANDOM = [Scanned, Vmapped, CallRngs, RequiredRngs]


def evaluate(model, **keywords):
    return model.apply(model.params, model.state, {"x": X}, train=False, **keywords)[0]


def train_mode(model, seed):
    key = jax.random.key(seed)
    return model.apply(model.params, model.state, {"x": X}, train=True, rng=key)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", RANDOM)
def test_dropout_follows_the_key_in_training_and_is_off_in_evaluation(kind):
    module = kind(0)
    model = jb.as_model(module)
    np.testing.assert_array_equal(train_mode(model, 1), train_mode(model, 1))
    assert not np.allclose(train_mode(model, 1), train_mode(model, 2))
    module.eval()
    streams = {"rngs": nnx.Rngs(0)} if kind is RequiredRngs else {}
    np.testing.assert_allclose(evaluate(model), module(X, **streams), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*RANDOM, Sowing])
def test_every_kind_of_module_is_a_teacher_and_a_student(kind):
    config = jb.DistillationConfig(hard_label_weight=1)
    distiller = jb.BasicDistiller(quiet(), config, kind(0), kind(1), logits_adaptor, logits_adaptor)
    history = distiller.train(optax.sgd(0.1), [BATCH], num_steps=2).history
    assert np.isfinite(history["total_loss"]).all()


def test_a_dropout_that_is_called_twice_draws_twice_as_the_module_does():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(jnp.ones(64)), self.drop(jnp.ones(64))

    model, key = jb.as_model(Twice(nnx.Rngs(0))), jax.random.key(1)
    masks = jax.jit(lambda key: model.apply({}, {}, BATCH, train=True, rng=key)[0])(key)
    assert not np.array_equal(*masks)
    module = Twice(nnx.Rngs(0))
    module.drop.rngs.key[...], module.drop.rngs.count[...] = jax.random.fold_in(key, 1), 0
    np.testing.assert_array_equal(masks, module(X))


def test_the_layers_of_a_scan_draw_different_dropout():
    class Plain(Scanned):
        def __call__(self, x):
            run = nnx.scan(
                lambda x, block: (x, block.drop(jnp.ones((64, 6)))),
                in_axes=(nnx.Carry, 0),
                out_axes=(nnx.Carry, 0),
            )
            return run(x, self.blocks)[1]

    masks = train_mode(jb.as_model(Plain(0)), 1)
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[2])


@pytest.mark.slow
def test_sown_values_are_dropped_or_reach_the_adaptor():
    module = Sowing(0)
    plain = jb.as_model(module)
    outputs, state = plain.apply(plain.params, plain.state, {"x": X}, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(plain.state)
    sowing = jb.from_nnx(module, sown=[Balance, nnx.Intermediate])
    (same, sown), _ = sowing.apply(sowing.params, sowing.state, {"x": X}, train=True)
    np.testing.assert_array_equal(outputs, same)
    hidden = module.layer(X)
    np.testing.assert_allclose(sown["Balance"]["balance"][0], jnp.mean(hidden**2), rtol=1e-6)
    np.testing.assert_allclose(sown["Intermediate"]["hidden"][0], hidden, rtol=1e-6)


def test_sown_values_and_captured_modules_come_together():
    model = jb.from_nnx(Sowing(0), sown=["Balance", nnx.Intermediate])
    apply = model.capturing(lambda path: path == "layer")
    ((_, sown), captured), _ = apply(model.params, model.state, {"x": X}, train=False)
    assert captured.keys() == {"layer"}
    np.testing.assert_array_equal(sown["Intermediate"]["hidden"][0], captured["layer"])


def test_a_dict_of_modules_holds_its_own_items_only():
    class Heads(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            heads = {name: nnx.Linear(4, CLASSES, rngs=rngs) for name in ("first", "second")}
            self.heads = nnx.Dict(heads)

        def __call__(self, x):
            outputs = {name: head(x) for name, head in self.heads.items()}
            self.sow(Balance, "number", len(self.heads))
            return outputs

    module = Heads()
    expected = {name: head(X) for name, head in module.heads.items()}
    for model in (jb.as_model(module), jb.from_nnx(module, sown=[Balance])):
        apply = model.capturing(lambda path: True)
        outputs, captured = apply(model.params, model.state, {"x": X}, train=True)[0]
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        assert outputs.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-6)
            np.testing.assert_array_equal(captured[f"heads.{name}"], outputs[name])


def test_an_adaptor_trains_on_a_sown_loss():
    """Only the balancing loss is trained on: it falls."""

    def adaptor(batch, outputs):
        _, sown = outputs
        return {"losses": sum(jax.tree.leaves(sown["Balance"]))}

    trainer = jb.BasicTrainer(quiet(), jb.from_nnx(Sowing(0), sown=[Balance]), adaptor)
    losses = trainer.train(optax.sgd(0.1), [BATCH], num_steps=5).history["total_loss"]
    assert losses[-1] < losses[0]


def test_values_left_by_an_earlier_call_are_not_part_of_the_model():
    module = Sowing(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module(X)
    model = jb.as_model(module)
    assert "hidden" not in model.state
    new_state = model.apply(model.params, model.state, {"x": X}, train=True)[1]
    assert jax.tree.structure(new_state) == jax.tree.structure(model.state)
    assert hasattr(module, "hidden")


def test_variables_that_appear_in_training_are_named():
    class Late(Sowing):
        def __call__(self, x):
            self.layer.last = Balance(x)
            return super().__call__(x)

    with pytest.raises(jb.UsageError, match="Late creates the variables 'layer/last' in a tr"):
        train_mode(jb.as_model(Late(0)), 1)


class OwnFlag(NnxMLP):
    """Keeps its mode in an attribute that ``nnx.view`` does not know."""

    flag = "training"

    def __init__(self, value=True, **settings):
        super().__init__(6, 4, **settings)
        setattr(self, self.flag, value)

    def __call__(self, x):
        is_training = getattr(self, self.flag)
        hidden = self.first(x)
        if self.norm is not None:
            hidden = self.norm(hidden, use_running_average=not is_training)
        return self.second(self.dropout(hidden, deterministic=not is_training))


class UnknownFlag(OwnFlag):
    flag = "is_noisy"


class Rematerialized(UnknownFlag):
    def __call__(self, x):
        return nnx.remat(UnknownFlag.__call__)(self, x)


@pytest.mark.parametrize("value", [True, False])
def test_an_attribute_named_after_the_mode_follows_it(value):
    model = jb.as_model(OwnFlag(value, dropout=0.5, norm=True))
    np.testing.assert_array_equal(
        evaluate(model, rng=jax.random.key(1)), evaluate(model, rng=jax.random.key(2))
    )
    assert not np.allclose(train_mode(model, 1), train_mode(model, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [UnknownFlag, Rematerialized])
def test_an_evaluation_that_draws_random_numbers_is_reported_once(kind):
    model = jb.as_model(kind(dropout=0.5))
    with pytest.warns(UserWarning, match=r"draws random numbers in evaluation \(dropout, Dropout"):
        jax.jit(lambda: evaluate(model))()
    evaluate(model)


def test_an_evaluation_that_draws_from_the_streams_of_its_call_is_reported():
    class Noisy(nnx.Module):
        def __call__(self, x, rngs):
            return x + rngs.normal(x.shape)

    with pytest.warns(UserWarning, match="Noisy draws random numbers in evaluation, the same"):
        evaluate(jb.as_model(Noisy()))


def test_an_evaluation_that_updates_batch_statistics_is_reported():
    model = jb.as_model(UnknownFlag(norm=True))
    with pytest.warns(UserWarning, match=r"updates batch statistics in evaluation \(norm, BatchN"):
        jax.jit(lambda: evaluate(model))()


def test_keys_that_do_not_reach_the_outputs_are_not_reported():
    class Forks(Block):
        def __call__(self, x):
            rngs = self.drop.rngs.fork()
            return self.drop(self.layer(x), rngs=rngs)

    evaluate_on = jb.as_model(Forks(nnx.Rngs(0)))
    evaluate_on.apply(evaluate_on.params, {}, {"x": jnp.ones((2, 6))}, train=False)
    evaluate(jb.as_model(Rematerialized(False, dropout=0.5, norm=True)))


def test_a_noisy_teacher_is_reported_before_training():
    distiller = jb.BasicDistiller(
        quiet(),
        jb.DistillationConfig(),
        UnknownFlag(dropout=0.5),
        NnxMLP(6, 4),
        logits_adaptor,
        logits_adaptor,
    )
    with pytest.warns(UserWarning, match="UnknownFlag draws random numbers in evaluation"):
        distiller.check(optax.sgd(0.1), [BATCH], num_steps=1)
