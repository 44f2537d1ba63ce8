"""Linen modules of every kind run: streams of any name, sown collections, fixed modes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from tests.toys import CLASSES, logits_adaptor, quiet, vector_data

BATCH = vector_data(16)
X = BATCH["x"]


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.Dense(6)(x)
        self.sow("losses", "balance", jnp.mean(hidden**2))
        self.sow("intermediates", "hidden", hidden)
        hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        return nn.Dense(CLASSES)(hidden)


class Noise(nn.Module):
    streams: tuple[str, ...] = ("noise",)

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(CLASSES)(x)
        for stream in self.streams if train else ():
            x = x + jax.random.normal(self.make_rng(stream), x.shape)
        return x


class Fixed(nn.Module):
    deterministic: bool

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dropout(0.5, deterministic=self.deterministic)(nn.Dense(6)(x))
        hidden = nn.BatchNorm(use_running_average=self.deterministic)(hidden)
        return nn.Dense(CLASSES)(hidden)


def pair(module, seed=0):
    return module, module.init({"params": jax.random.key(seed), "dropout": jax.random.key(1)}, X)


def forward(model, *, train, seed=0):
    key = jax.random.key(seed) if train else None
    return model.apply(model.params, model.state, {"x": X}, train=train, rng=key)


def distiller(teacher, student, **config):
    return jb.GeneralDistiller(
        quiet(),
        jb.DistillationConfig(hard_label_weight=1, **config),
        teacher,
        student,
        logits_adaptor,
        logits_adaptor,
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", [Sowing(), Noise()])
def test_every_kind_of_module_is_a_teacher_and_a_student(module):
    history = distiller(pair(module), pair(module, 1)).train(optax.sgd(0.1), [BATCH], num_steps=2)[
        1
    ]
    assert np.isfinite(history["total_loss"]).all()


def test_sown_values_are_dropped_or_reach_the_adaptor():
    module, variables = pair(Sowing())
    assert variables.keys() == {"params", "batch_stats", "losses"}
    plain = jb.as_model((module, variables))
    assert plain.state.keys() == {"batch_stats"}
    outputs, state = forward(plain, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(plain.state)
    for train in (True, False):
        sowing = jb.from_linen(module, variables, sown=["losses", "intermediates"])
        (logits, sown), _ = forward(sowing, train=train)
        if train:
            np.testing.assert_array_equal(logits, outputs)
        hidden = X @ variables["params"]["Dense_0"]["kernel"]
        np.testing.assert_allclose(sown["losses"]["balance"][0], jnp.mean(hidden**2), rtol=1e-5)
        np.testing.assert_allclose(sown["intermediates"]["hidden"][0], hidden, rtol=1e-5)


def test_sown_values_and_captured_modules_come_together():
    model = jb.from_linen(*pair(Sowing()), sown=["losses"])
    apply = model.capturing(lambda path: path == "Dense_0")
    ((_, sown), captured), state = apply(model.params, model.state, {"x": X}, train=True)
    assert captured.keys() == {"Dense_0"}
    expected = jnp.mean(captured["Dense_0"] ** 2)
    np.testing.assert_allclose(sown["losses"]["balance"][0], expected, rtol=1e-6)
    assert state.keys() == {"batch_stats"}


def test_streams_of_any_name_have_keys_of_their_own():
    def noise(*streams, **settings):
        silent = forward(jb.as_model(pair(Noise(()))), train=True)[0]
        return forward(jb.from_linen(*pair(Noise(streams)), **settings), train=True)[0] - silent

    one, two = noise("noise"), noise("droppath")
    assert np.std(one) > 0.5
    assert not np.allclose(noise("noise", "droppath"), 2 * one)
    assert not np.allclose(one, noise("noise", rngs=["noise"]))
    assert not np.allclose(two, noise("dropout"))


@pytest.mark.slow
def test_a_mode_that_is_fixed_in_the_module_is_kept():
    teacher, student = pair(Fixed(True)), pair(Fixed(False), 1)
    match = [{"module_T": "Dense_0", "module_S": "Dense_0"}]
    trained = distiller(teacher, student, custom_matches=match)
    history = trained.train(optax.sgd(0.1), [BATCH], num_steps=2).history
    assert np.isfinite(history["total_loss"]).all()


@pytest.mark.slow
def test_a_module_fixed_in_training_mode_is_refused_as_a_teacher():
    with pytest.raises(jb.UsageError, match=r"^Teacher: Fixed draws random .* \(Dropout_0 needs"):
        distiller(pair(Fixed(False)), pair(Fixed(True))).check(optax.sgd(0.1), [BATCH], num_steps=1)

    class Statistics(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(x)

    model = jb.as_model(pair(Statistics()))
    with pytest.raises(jb.UsageError, match="Statistics updates its variables in evaluation"):
        forward(model, train=False)


def test_variables_that_appear_in_training_are_named():
    class Late(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            self.variable("stats", "calls", jnp.zeros, ())
            if train:
                self.variable("stats", "late", jnp.zeros, ())
            return nn.Dense(CLASSES)(x)

    with pytest.raises(jb.UsageError, match="Late creates the variables 'stats/late' in a tr"):
        forward(jb.as_model(pair(Late())), train=True)
