"""The fast forms on a CPU are the plain ones, to the last gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer.models import BertConfig, BertForTokenClassification, _dense

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
KERNEL = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
DIMENSIONS = (((1,), (0,)), ((), ()))


def fast(x, kernel):
    return _dense.dot_general(x, kernel, DIMENSIONS, precision=None, out_sharding=None)


def plain(x, kernel):
    return jax.lax.dot_general(x, kernel, DIMENSIONS)


def value_and_gradients(function):
    return jax.jit(
        lambda *args: jax.value_and_grad(
            lambda *args: jnp.sum(jnp.sin(function(*args))), range(len(args))
        )(*args)
    )


def test_matmul_has_the_value_and_gradients_of_autodiff():
    ours, theirs = (value_and_gradients(form)(X, KERNEL) for form in (fast, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_matmul_under_vmap_and_a_second_reverse_pass():
    def twice(function):
        inner = jax.grad(lambda x, kernel: jnp.sum(function(x, kernel) ** 3), argnums=1)
        outer = jax.grad(lambda x, kernel: jnp.sum(inner(x, kernel) ** 2))
        return jax.jit(jax.vmap(outer, in_axes=(0, None)))(jnp.stack([X, 2 * X]), KERNEL)

    np.testing.assert_allclose(twice(fast), twice(plain), rtol=1e-4)


def test_gelu_has_the_value_and_gradient_of_the_definition():
    x = jnp.concatenate([jnp.linspace(-6, 6, 97), jnp.array([0.0, -40.0, 40.0])])
    ours = value_and_gradients(_dense.gelu)(x)
    theirs = value_and_gradients(lambda x: jax.nn.gelu(x, approximate=False))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours, theirs)


def test_gelu_of_half_precision_is_computed_in_float32():
    x = jnp.linspace(-4, 4, 65, dtype=jnp.bfloat16)
    wide = _dense.gelu(x.astype(jnp.float32))
    np.testing.assert_array_equal(_dense.gelu(x), wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_model_on_a_cpu_takes_the_fast_forms_unless_told_otherwise(monkeypatch, is_fast):
    monkeypatch.setattr(_dense, "REVERSE_MODE_ONLY", is_fast)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    graph, params, rest = nnx.split(
        BertForTokenClassification(config, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    params = nnx.to_pure_dict(params)
    ids = np.arange(6).reshape(2, 3)

    def loss(params):
        return jnp.sum(jnp.sin(nnx.merge(graph, params, rest)(ids)["logits"]))

    gradients = jax.make_jaxpr(jax.grad(loss))(params)
    # six dense maps of the layer and one of the head
    assert str(gradients).count("optimization_barrier") == (7 if is_fast else 0)
    along = jax.jit(lambda params: jax.jvp(loss, (params,), (params,))[1])
    if is_fast:
        with pytest.raises(TypeError, match="custom_vjp"):
            along(params)
    else:
        backward = jax.jit(jax.grad(loss))(params)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), backward, params)
        np.testing.assert_allclose(along(params), sum(jax.tree.leaves(products)), rtol=1e-4)


def test_the_gradients_of_a_model_are_those_of_autodiff(monkeypatch):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=12, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    graph, params, rest = nnx.split(
        BertForTokenClassification(config, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    ids = np.arange(6).reshape(2, 3)
    gradients = []
    for is_fast in (True, False):
        monkeypatch.setattr(_dense, "REVERSE_MODE_ONLY", is_fast)

        def loss(params):
            return jnp.sum(jnp.sin(nnx.merge(graph, params, rest)(ids)["logits"]))

        gradients.append(jax.jit(jax.grad(loss))(nnx.to_pure_dict(params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)
