"""Products of hidden states with weights, in the form that a CPU computes fastest."""

from typing import Any

import jax
from jaxtyping import Array


def flat_dot_general(
    lhs: Array, rhs: Array, dimension_numbers: Any, *arguments: Any, **settings: Any
) -> Array:
    """``jax.lax.dot_general`` in which inputs of three or more axes are matrices.

    Give it to dense layers of Flax: ``nnx.Linear(..., dot_general=flat_dot_general)``, or
    ``nn.Dense`` likewise. For inputs ``[batch, length, width]`` autodiff writes a weight gradient
    that sums over two axes, which XLA computes on a CPU slower than the product of two matrices;
    see ``docs/benchmarks.md`` for how much. Other products are computed as they are given.

    Args:
        lhs: Inputs, ``[..., width]``.
        rhs: Weights, ``[width, outputs]``.
        dimension_numbers: As of ``jax.lax.dot_general``.
        arguments: Its further arguments.
        settings: Its further keyword arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = nnx.Linear(3, 5, dot_general=flat_dot_general, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 4, 3))).shape
        (2, 4, 5)
    """
    (contracted, of_weights), batched = dimension_numbers
    is_dense = (
        rhs.ndim == 2
        and tuple(contracted) == (lhs.ndim - 1,)
        and tuple(of_weights) == (0,)
        and not any(map(len, batched))
        and settings.get("out_sharding") is None
    )
    if not is_dense or lhs.ndim < 3:
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, *arguments, **settings)
    rows = lhs.reshape(-1, lhs.shape[-1])
    product = jax.lax.dot_general(rows, rhs, (((1,), (0,)), ((), ())), *arguments, **settings)
    return product.reshape(*lhs.shape[:-1], rhs.shape[1])
