"""Averages losses: a mean is a sum and a count until the end.

Sums and counts add up over micro-batches, devices and processes and are divided once, which gives
the number of the whole batch for any split.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, Protocol, cast, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

P = ParamSpec("P")


class Mean(NamedTuple):
    """A mean in two parts, ``total / count``; add parts of a batch with :func:`add_means`.

    Attributes:
        total: Sum of the loss over the valid positions, a scalar.
        count: The number of positions, or their total weight with fractional masks, a scalar.

    Examples:
        >>> print(Mean(jnp.float32(6.0), jnp.float32(4.0)).value())
        1.5
        >>> print(Mean(jnp.float32(0.0), jnp.float32(0.0)).value())  # nothing valid
        0.0
    """

    total: Float[Array, ""]
    count: Float[Array, ""]  # type: ignore[assignment]  # tuple has a method of that name

    def value(self) -> Float[Array, ""]:
        """``total / count``, and 0 where nothing was counted."""
        return self.total / jnp.where(self.count > 0, self.count, 1)


class Loss(Protocol[P]):
    """A function that returns a scalar, with the form that returns a :class:`Mean`."""

    sum_and_count: Callable[P, Mean]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Float[Array, ""]:
        """The loss of the batch, a scalar."""


def as_loss(sum_and_count: Callable[P, Mean]) -> Loss[P]:
    """Turns a function that returns a :class:`Mean` into a loss.

    The loss returns the scalar ``total / count``; its attribute ``sum_and_count`` is the given
    function, which the objective calls.

    Examples:
        >>> @as_loss
        ... def l1_loss(student, teacher, mask=None):
        ...     gap = jnp.abs(valid(student, mask) - valid(teacher, mask))
        ...     return masked_mean(gap, mask)
        >>> student, teacher = jnp.array([1.0, 2.0]), jnp.array([1.0, 5.0])
        >>> print(l1_loss(student, teacher), l1_loss.sum_and_count(student, teacher).count)
        1.5 2.0
    """

    @functools.wraps(sum_and_count)
    def loss(*args: P.args, **kwargs: P.kwargs) -> Float[Array, ""]:
        return sum_and_count(*args, **kwargs).value()

    loss.sum_and_count = sum_and_count  # type: ignore[attr-defined]
    return cast(Loss[P], loss)


def loss_dtype(*arrays: Any) -> Any:
    """float64 if any input is float64, float32 otherwise: losses never see half precision.

    Args:
        *arrays: The inputs.

    Examples:
        >>> print(loss_dtype(jnp.zeros(2, jnp.bfloat16)))
        float32
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *arrays)


@overload
def selected(mask: None) -> None: ...
@overload
def selected(mask: Shaped[Array, "..."]) -> Bool[Array, "..."]: ...
def selected(mask: Shaped[Array, "..."] | None) -> Bool[Array, "..."] | None:
    """What a mask of any dtype selects: every value but 0; ``None`` selects everything.

    Examples:
        >>> print(selected(jnp.array([0.5, 0.0])))
        [ True False]
    """
    return None if mask is None else mask.astype(bool)


def valid(x: Shaped[Array, "..."], mask: Shaped[Array, "..."] | None) -> Float[Array, "..."]:
    """``x`` in the loss dtype, with zeros where ``mask`` is 0.

    Padding is overwritten before it is used, so that a NaN there reaches neither the value nor the
    gradient. ``mask`` covers the leading axes of ``x``.

    Examples:
        >>> print(valid(jnp.array([1.0, jnp.nan]), jnp.array([1, 0])))
        [1. 0.]
    """
    x = jnp.asarray(x, loss_dtype(x))
    if mask is None:
        return x
    mask = jnp.reshape(mask, mask.shape + (1,) * (x.ndim - mask.ndim))
    return jnp.where(selected(mask), x, jnp.zeros((), x.dtype))


def masked_mean(values: Shaped[Array, "..."], mask: Shaped[Array, "..."] | None = None) -> Mean:
    """Sum and count of ``values`` over the positions whose ``mask`` is not 0.

    Args:
        values: The loss per position, any shape.
        mask: ``None`` (all positions count) or weights that broadcast against ``values`` after
            trailing axes are added to them; usually 0 and 1, in any dtype.

    Returns:
        ``Mean(sum of mask * values, sum of mask)``.

    Examples:
        >>> print(masked_mean(jnp.array([1.0, 2.0, 6.0]), jnp.array([1, 1, 0])).value())
        1.5
    """
    values = jnp.asarray(values, loss_dtype(values))
    if mask is None:
        return Mean(jnp.sum(values), jnp.asarray(values.size, values.dtype))
    weights = jnp.reshape(mask, mask.shape + (1,) * (values.ndim - mask.ndim)).astype(values.dtype)
    weighted = jnp.where(weights != 0, values * weights, jnp.zeros((), values.dtype))
    return Mean(jnp.sum(weighted), jnp.sum(weights) * (values.size // max(weights.size, 1)))


def add_means(*means: Mean) -> Mean:
    """The :class:`Mean` of the parts of a batch taken together.

    Examples:
        >>> parts = masked_mean(jnp.ones(1)), masked_mean(jnp.full(3, 5.0))
        >>> print(add_means(*parts).value())  # not 3.0, the mean of the means
        4.0
    """
    totals, counts = zip(*means, strict=True)
    return Mean(functools.reduce(jnp.add, totals), functools.reduce(jnp.add, counts))
