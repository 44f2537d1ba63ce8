"""Any model as one pure function: three kinds, one training."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from tests.toys import (
    LinenMLP,
    NnxMLP,
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    vector_data,
)

BATCHES = list(jb.ArrayLoader(vector_data(), 8, shuffle=False))
X = BATCHES[0]["x"]


def nnx_with(params, **settings):
    model = NnxMLP(params["first"]["kernel"].shape[1], 4, **settings)
    for name in ("first", "second"):
        layer = getattr(model, name)
        layer.kernel[...], layer.bias[...] = params[name]["kernel"], params[name]["bias"]
    return model


def students(params):
    width = params["first"]["kernel"].shape[1]
    return {
        "nnx": nnx_with(params),
        "linen": (LinenMLP(width), {"params": params}),
        "function": (mlp, params),
    }


def train(student, **settings):
    teacher = (mlp, mlp_params(8, seed=1))
    config = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)
    distiller = jb.BasicDistiller(
        quiet(**settings), config, teacher, student, logits_adaptor, logits_adaptor
    )
    return distiller.train(optax.adam(1e-2), BATCHES, num_epochs=2)


@pytest.mark.slow
def test_all_kinds_of_models_train_alike():
    params = mlp_params(3)
    results = {kind: train(student) for kind, student in students(params).items()}
    reference = results["function"]
    for kind, (student, history) in results.items():
        np.testing.assert_allclose(
            history["total_loss"], reference.history["total_loss"], rtol=1e-5, err_msg=kind
        )
        logits = {
            "nnx": lambda model: model(X),
            "linen": lambda variables: LinenMLP(3).apply(variables, X),
            "function": lambda params: mlp(params, X),
        }[kind](student)
        np.testing.assert_allclose(logits, mlp(reference.student, X), rtol=1e-4, atol=1e-6)
    first, second = np.split(reference.history["total_loss"], 2)
    assert second.sum() < first.sum()  # of the same batches


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_dropout_and_batch_statistics_move_in_the_student_only(kind):
    def build(seed):
        if kind == "nnx":
            return NnxMLP(6, 4, dropout=0.5, norm=True, seed=seed)
        module = LinenMLP(6, dropout=0.5, norm=True)
        return module, module.init(jax.random.key(seed), X)

    teacher = build(1)
    before = jax.tree.map(np.asarray, jb.as_model(teacher).variables)
    config = jb.DistillationConfig(hard_label_weight=1)

    def run():
        student = build(2)
        old = jax.tree.map(np.asarray, jb.as_model(student).variables)
        distiller = jb.BasicDistiller(
            quiet(), config, teacher, student, logits_adaptor, logits_adaptor
        )
        result = distiller.train(optax.sgd(0.1), BATCHES, num_epochs=2)
        module = student if kind == "nnx" else (student[0], result.student)
        return old, jax.tree.map(np.asarray, jb.as_model(module).variables), result.history

    old, new, history = run()
    for part in ("params", "state"):
        moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), old[part], new[part])
        assert all(jax.tree.leaves(moved)), part
    after = jax.tree.map(np.asarray, jb.as_model(teacher).variables)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    _, again, same_history = run()  # dropout is drawn from the seed alone
    jax.tree.map(np.testing.assert_array_equal, new, again)
    np.testing.assert_array_equal(history["total_loss"], same_history["total_loss"])


def test_teacher_runs_in_evaluation_and_student_in_training_mode():
    """Lesson B.6, 37: a forgotten ``with`` left the teacher in training mode."""
    seen = []

    def spy(params, x, train):
        seen.append((params["who"].shape[0], train))
        return x @ jnp.ones((4, 5)) * params["w"]

    def model(length):
        return spy, {"w": jnp.float32(1), "who": jnp.zeros(length)}

    distiller = jb.BasicDistiller(
        quiet(), jb.DistillationConfig(), model(1), model(2), logits_adaptor, logits_adaptor
    )
    distiller.train(optax.sgd(0.1), BATCHES, num_epochs=1)
    assert set(seen) == {(1, False), (2, True)}


def test_dropout_differs_between_steps_and_calls_but_not_between_equal_keys():
    model = jb.as_model(NnxMLP(6, 4, dropout=0.5))
    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    first, same, other = (
        model.apply(model.params, model.state, {"x": X}, train=True, rng=key)[0] for key in keys
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_users_arrays_stay_valid_after_donation():
    params = mlp_params(3)
    student = nnx_with(params)
    before = student.first.kernel[...]
    train(student)
    assert np.isfinite(before).all()
    assert np.isfinite(params["first"]["kernel"]).all()


def test_more_than_ten_layers_keep_their_order():
    class Deep(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(i)) for i in range(12)])

        def __call__(self, x):
            for index, layer in enumerate(self.layers):
                x = layer(x) + index
            return x

    module, x = Deep(), jnp.ones((2, 1))
    model = jb.as_model(module)
    np.testing.assert_array_equal(model.apply(model.params, {}, (x,), train=False)[0], module(x))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, model.params)
    exported = model.export(doubled, {})
    np.testing.assert_array_equal(
        exported.layers[11].kernel[...], 2 * module.layers[11].kernel[...]
    )


def test_linen_metadata_is_unboxed():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
            return nn.Dense(2, kernel_init=init)(x)

    module = Boxed()
    model = jb.as_model((module, module.init(jax.random.key(0), X)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))


def test_a_custom_model_carries_state():
    """The whole contract by hand: a running count in the state."""

    def apply(params, state, batch, *, train, rng=None, args=None):
        return batch["x"] * params["w"], {"calls": state["calls"] + train}

    student = jb.Model(
        apply, {"w": jnp.ones(())}, {"calls": jnp.int32(0)}, export=lambda p, s: (p, s)
    )
    student = dataclasses.replace(student, write_back=student.export)

    def adaptor(batch, outputs):
        return {"losses": jnp.mean(outputs**2)}

    trainer = jb.BasicTrainer(quiet(), student, adaptor)
    (_, state), _ = trainer.train(optax.sgd(0.1), BATCHES, num_steps=4)
    assert state["calls"] == 4
