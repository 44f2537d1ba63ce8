"""Where losses are averaged: a mean is kept as a sum and a count until the very end.

A loss that is written as ``(sum, count)`` can be added up over micro-batches, devices and
processes and divided once, which gives the number of the whole batch whatever the split.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Mean(NamedTuple):
    """A mean in two parts, ``total / count``; add parts of a batch with :func:`add_means`.

    Attributes:
        total: Sum of the loss over the valid positions, a scalar.
        count: How many (or, with fractional masks, how much weight) there were, a scalar.

    Examples:
        >>> print(Mean(jnp.float32(6.0), jnp.float32(4.0)).value())
        1.5
        >>> print(Mean(jnp.float32(0.0), jnp.float32(0.0)).value())  # nothing valid
        0.0
    """

    total: Float[Array, ""]
    count: Float[Array, ""]

    def value(self) -> Float[Array, ""]:
        """``total / count``, and 0 where nothing was counted."""
        return self.total / jnp.where(self.count > 0, self.count, 1)


def as_loss(sum_and_count: Callable[..., Mean]) -> Callable[..., Float[Array, ""]]:
    """Turns a function that returns a :class:`Mean` into a loss.

    The loss returns the scalar ``total / count``; its attribute ``sum_and_count`` is the undivided
    function, which is what the objective calls.

    Examples:
        >>> @as_loss
        ... def l1_loss(student, teacher, mask=None):
        ...     gap = jnp.abs(student - teacher)
        ...     return masked_mean(gap, mask)
        >>> student, teacher = jnp.array([1.0, 2.0]), jnp.array([1.0, 5.0])
        >>> print(l1_loss(student, teacher), l1_loss.sum_and_count(student, teacher).count)
        1.5 2.0
    """

    @functools.wraps(sum_and_count)
    def loss(*args: Any, **kwargs: Any) -> Float[Array, ""]:
        return sum_and_count(*args, **kwargs).value()

    loss.sum_and_count = sum_and_count  # type: ignore[attr-defined]
    return loss


def loss_dtype(*arrays: Array) -> Any:
    """float64 if any input is float64, float32 otherwise: losses never see half precision."""
    return jnp.result_type(jnp.float32, *arrays)


def valid(x: Array, mask: Array | None) -> Array:
    """``x`` in the loss dtype, with zeros where ``mask`` is 0.

    Padding is overwritten before it is used, so that a NaN there reaches neither the value nor the
    gradient. ``mask`` covers the leading axes of ``x``.
    """
    x = x.astype(loss_dtype(x))
    if mask is None:
        return x
    mask = jnp.reshape(mask, mask.shape + (1,) * (x.ndim - mask.ndim))
    return jnp.where(mask != 0, x, jnp.zeros((), x.dtype))


def masked_mean(values: Array, mask: Array | None = None) -> Mean:
    """Sum and count of ``values`` over the positions whose ``mask`` is not 0.

    Args:
        values: The loss per position, any shape.
        mask: ``None`` (all positions count) or weights that broadcast against ``values`` after
            trailing axes are added to them; usually 0 and 1, in any dtype.

    Returns:
        ``Mean(sum of mask * values, sum of mask)``.
    """
    values = values.astype(loss_dtype(values))
    if mask is None:
        return Mean(jnp.sum(values), jnp.asarray(values.size, values.dtype))
    mask = jnp.reshape(mask, mask.shape + (1,) * (values.ndim - mask.ndim)).astype(values.dtype)
    weights = jnp.broadcast_to(mask, values.shape)
    weighted = jnp.where(weights != 0, values * weights, jnp.zeros((), values.dtype))
    return Mean(jnp.sum(weighted), jnp.sum(weights))


def add_means(*means: Mean) -> Mean:
    """The :class:`Mean` of the parts of a batch taken together."""
    return jax.tree.map(lambda *leaves: functools.reduce(jnp.add, leaves), *means)
