"""``flat_dot_general``: values of ``dot_general``, gradients that are products of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxbrewer.models import flat_dot_general

X = jax.random.normal(jax.random.key(0), (2, 4, 3))


def linen(dot_general):
    module = nn.Dense(5, dot_general=dot_general)
    return module.init(jax.random.key(1), X), module.apply


def of_nnx(dot_general):
    layer = nnx.Linear(3, 5, dot_general=dot_general, rngs=nnx.Rngs(1))
    graph, weights = nnx.split(layer)
    return nnx.to_pure_dict(weights), lambda weights, x: nnx.merge(graph, weights)(x)


@pytest.mark.parametrize("make", [linen, of_nnx])
def test_dense_layers_have_the_same_values_and_gradients(make):
    results = []
    for dot_general in (jax.lax.dot_general, flat_dot_general):
        weights, apply = make(dot_general)
        loss = lambda weights, apply=apply: jnp.sum(jnp.sin(apply(weights, X)))  # noqa: E731
        results.append(jax.jit(jax.value_and_grad(loss))(weights))
        axes = {
            variable.aval.ndim
            for equation in jax.make_jaxpr(jax.grad(loss))(weights).eqns
            if equation.primitive.name == "dot_general"
            for variable in equation.invars
        }
    assert axes == {2}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *results)


@pytest.mark.parametrize(
    ("shapes", "numbers"),
    [
        (((2, 4, 3), (2, 3, 5)), (((2,), (1,)), ((0,), (0,)))),
        (((2, 4, 3), (4, 5)), (((1,), (0,)), ((), ()))),
        (((2, 4, 3), (5, 3)), (((2,), (1,)), ((), ()))),
        (((4, 3), (3, 5)), (((1,), (0,)), ((), ()))),
    ],
    ids=["batched", "another axis", "transposed weights", "matrices"],
)
def test_other_products_stay_as_they_are(shapes, numbers):
    left, right = (jax.random.normal(jax.random.key(0), shape) for shape in shapes)
    expected = jax.lax.dot_general(left, right, numbers)
    np.testing.assert_array_equal(flat_dot_general(left, right, numbers), expected)
