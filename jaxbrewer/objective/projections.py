"""Linear maps from the student's width to the teacher's, each followed by an activation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..errors import UsageError

Activation = Callable[[Array], Array]
ProjectionParams = dict[str, Array]
"""``{"kernel": (dim_in, dim_out), "bias": (dim_out,)}``."""

INITIAL_STD = 0.02


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The activation of a projection named ``linear``: none."""
    return x


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The activation of a projection named ``relu``."""
    return jax.nn.relu(x)


def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The activation of a projection named ``tanh``."""
    return jnp.tanh(x)


def init_projection(key: PRNGKeyArray, dim_in: int, dim_out: int) -> ProjectionParams:
    """New parameters: a kernel drawn from N(0, 0.02²) and a bias of zeros, in float32.

    Examples:
        >>> params = init_projection(jax.random.key(0), dim_in=3, dim_out=5)
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (5,), 'kernel': (3, 5)}
    """
    kernel = INITIAL_STD * jax.random.normal(key, (dim_in, dim_out), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(dim_out, jnp.float32)}


def apply_projection(
    params: ProjectionParams, x: Float[Array, "*batch dim_in"], activation: Activation = identity
) -> Float[Array, "*batch dim_out"]:
    """``activation(x @ kernel + bias)`` on the last axis, in the dtype of ``x``.

    Args:
        params: What :func:`init_projection` returns.
        x: The student's states.
        activation: A function of an array, usually a row of ``PROJ_MAP``.

    Returns:
        States of the teacher's width.

    Raises:
        UsageError: The width of ``x`` is not that of the kernel.

    Examples:
        >>> params = {"kernel": -jnp.ones((2, 3)), "bias": jnp.ones(3)}
        >>> print(apply_projection(params, jnp.ones((1, 2)), relu))
        [[0. 0. 0.]]
    """
    dim_in, dim_out = params["kernel"].shape
    if x.shape[-1] != dim_in:
        raise UsageError(
            f"projection: built for student states of width {dim_in}, got {x.shape}: "
            f'write "proj": [activation, {x.shape[-1]}, {dim_out}].'
        )
    kernel, bias = params["kernel"].astype(x.dtype), params["bias"].astype(x.dtype)
    return activation(x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (dim_out,)))
