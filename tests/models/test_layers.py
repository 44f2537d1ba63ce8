"""Parts of the encoder by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer.models import BertConfig, BertForTokenClassification
from jaxbrewer.models.config import ACTIVATION_NAMES
from jaxbrewer.models.layers import ACTIVATIONS, LayerNorm, gelu


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
