import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.objective.projections import apply_projection, init_projection, relu, tanh

PARAMS = {"kernel": jnp.array([[1.0, -1.0, 2.0], [0.0, 1.0, -3.0]]), "bias": jnp.arange(3.0)}
X = jnp.array([[[1.0, 2.0]], [[-2.0, 0.5]]])


@pytest.mark.parametrize("activation", [relu, tanh, jnp.sin])
def test_activation_follows_the_linear_map(activation):
    linear = apply_projection(PARAMS, X)
    by_hand = np.asarray(X) @ np.asarray(PARAMS["kernel"]) + np.asarray(PARAMS["bias"])
    np.testing.assert_allclose(linear, by_hand)
    np.testing.assert_allclose(apply_projection(PARAMS, X, activation), activation(linear))


def test_states_of_any_rank_are_projected():
    expected = apply_projection(PARAMS, X)
    np.testing.assert_allclose(apply_projection(PARAMS, X[:, 0]), expected[:, 0])
    np.testing.assert_allclose(apply_projection(PARAMS, X[None]), expected[None])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_result_has_the_dtype_of_the_states(dtype):
    assert apply_projection(PARAMS, X.astype(dtype), relu).dtype == dtype


@pytest.mark.slow
def test_gradients_reach_the_parameters_in_their_own_dtype():
    grads = jax.grad(lambda p: apply_projection(p, X.astype(jnp.bfloat16)).sum())(PARAMS)
    assert all(grad.dtype == np.float32 and np.all(grad != 0) for grad in grads.values())


def test_each_key_gives_its_own_kernel():
    one, two = (init_projection(jax.random.key(seed), 4, 6)["kernel"] for seed in (0, 1))
    assert one.shape == (4, 6)
    assert one.dtype == np.float32
    assert np.all(one != two)


def test_a_wrong_width_is_refused():
    with pytest.raises(UsageError, match=r'width 2, got \(5, 7\): .*"proj": \[activation, 7, 3\]'):
        apply_projection(PARAMS, jnp.ones((5, 7)))
    with pytest.raises(UsageError, match=r"width 2, got \(5, 4, 7\): .*\[activation, 7, 3\]"):
        apply_projection(PARAMS, jnp.ones((5, 4, 7)))
