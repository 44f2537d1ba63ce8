"""Parts of the encoder by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer.models import BertConfig, BertForTokenClassification
from jaxbrewer.models.config import ACTIVATION_NAMES
from jaxbrewer.models.layers import ACTIVATIONS, LayerNorm, gelu, softmax


def test_gelu_has_the_value_and_gradient_of_the_definition():
    x = jnp.concatenate([jnp.linspace(-6, 6, 97), jnp.array([0.0, -40.0, 40.0])])

    def value_and_slope(function):
        return jax.jit(jax.vmap(jax.value_and_grad(function)))(x)

    ours = value_and_slope(gelu)
    theirs = value_and_slope(lambda x: jax.nn.gelu(x, approximate=False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def test_gelu_of_half_precision_is_computed_in_float32():
    x = jnp.linspace(-4, 4, 65, dtype=jnp.bfloat16)
    wide = gelu(x.astype(jnp.float32))
    np.testing.assert_array_equal(gelu(x), wide.astype(jnp.bfloat16))


def test_softmax_has_the_value_and_both_derivatives_of_the_definition():
    scores = np.random.default_rng(0).normal(0, 5, (3, 7))
    scores[1, 4:] = -1e30  # padding
    scores[2] += 300
    direction = np.random.default_rng(1).normal(size=(3, 7))
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    p = exponentials / exponentials.sum(-1, keepdims=True)
    slope = p * (direction - (p * direction).sum(-1, keepdims=True))

    def along(x):
        return jax.jvp(softmax, (x,), (jnp.float32(direction),))[1]

    x = jnp.float32(scores)
    backward = jax.vjp(softmax, x)[1](jnp.float32(direction))[0]  # the Jacobian is symmetric
    np.testing.assert_allclose(softmax(x), p, atol=2e-6)
    np.testing.assert_allclose(along(x), slope, atol=3e-6)
    np.testing.assert_allclose(backward, slope, atol=3e-6)
    curvature = slope * (direction - (p * direction).sum(-1, keepdims=True)) - p * (
        slope * direction
    ).sum(-1, keepdims=True)
    found = jax.jvp(along, (x,), (jnp.float32(direction),))[1]
    np.testing.assert_allclose(found, curvature, atol=1e-5)


def test_softmax_keeps_its_result_alone_for_the_derivative():
    _, backward = jax.vjp(softmax, jnp.ones((3, 7)))
    assert [leaf.shape for leaf in jax.tree.leaves(backward)] == [(3, 7)]


def test_layer_norm_is_exact_far_from_zero():
    x = np.random.default_rng(0).normal(300, 1, (4, 768))
    norm = LayerNorm(768, 1e-12, nnx.Rngs(0))
    wanted = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(norm(jnp.float32(x)), wanted, atol=1e-3)


def test_every_activation_that_a_config_may_name_is_there():
    assert set(ACTIVATIONS) == set(ACTIVATION_NAMES)


@pytest.mark.slow
def test_dense_layers_see_matrices():
    """On a CPU the gradient of a dense map over three axes takes half as long again."""
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12,
    )  # fmt: skip
    model = BertForTokenClassification(config, rngs=nnx.Rngs(0))
    model.eval()
    program = jax.make_jaxpr(lambda ids: model(ids)["logits"])(jnp.ones((2, 3), int))
    products = [eqn for eqn in program.eqns if eqn.primitive is jax.lax.dot_general_p]
    ranks = [tuple(operand.aval.ndim for operand in product.invars) for product in products]
    # query, key, value, output, two of the feed-forward block, head; scores and context
    assert sorted(ranks) == [(2, 2)] * 7 + [(4, 4)] * 2
