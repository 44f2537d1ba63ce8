"""Functions of :class:`LogitsOf`, computed by chunks of positions.

A chunk of positions is a small batch of logits ``[chunk, classes]``, on which the plain losses run.
Sums of chunks add up, so the numbers are those of the whole. Where a gradient is asked for, it is
made in the same pass: the chunk's gradient with respect to its logits becomes the gradient of the
hidden states and is added to that of the head, and no logits are kept. The backward pass multiplies
by a number.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._chunk_sizes import Chunks
from ._logits_of import LogitsOf
from ._reduction import Mean

PyTree = Any
OfChunk = Callable[[Any, Any, Any], Any]
"""``(logits [chunk, classes], rows, shared) -> result``."""


def means_in_chunks(
    function: OfChunk,
    logits: LogitsOf,
    rows: PyTree,
    shared: PyTree,
    chunks: Chunks,
    *,
    weights: Sequence[Any] = (1.0,),
) -> tuple[Mean, ...]:
    """Each :class:`Mean` over all positions from those of chunks, with a gradient to ``logits``.

    The forward pass makes the gradient of the weighted sum of the means. If the derivatives of the
    totals turn out to have other proportions, as those of micro-batches whose counts have, the
    backward pass makes the gradient anew.

    Args:
        function: ``(logits [chunk, classes], rows, shared) -> tuple of Mean``, one for each of
            ``weights``; it must ignore positions that its ``rows`` mask out, of which the last
            chunk may have some.
        logits: Their hidden states are ``[positions, width]``.
        rows: Arrays with the positions as first axis, of which ``function`` gets those of a chunk.
        shared: What ``function`` gets whole.
        chunks: From :func:`choose_chunks`.
        weights: The weight of each mean in the loss, as far as it is known.
    """
    if chunks.number == 1:
        rows, shared = jax.lax.stop_gradient((rows, shared))
        plain: tuple[Mean, ...] = function(logits.logits(), rows, shared)
        return plain

    @jax.custom_vjp
    def run(logits: LogitsOf, rows: PyTree, shared: PyTree, shares: Array) -> tuple[Mean, ...]:
        needed = _Parts(False, False, False)
        return _scan(function, logits, rows, shared, chunks, needed, shares)[0]

    def forward(*arguments: Any) -> tuple[tuple[Mean, ...], Any]:
        values, perturbed = (
            jax.tree.map(lambda x, name=name: getattr(x, name), arguments, is_leaf=_is_primal)
            for name in ("value", "perturbed")
        )
        logits, rows, shared, shares = values
        needed = _Parts.of(perturbed[0])._replace(bias=bool(perturbed[0].bias))
        means, gradient = _scan(function, logits, rows, shared, chunks, needed, shares)
        return means, (gradient, values)

    def backward(residuals: Any, cotangents: tuple[Mean, ...]) -> Any:
        gradient, (logits, rows, shared, shares) = residuals
        needed = _Parts(*(part is not None for part in gradient))
        totals = jnp.stack(
            [
                jnp.zeros((), shares.dtype) if _is_zero(c.total) else c.total.astype(shares.dtype)
                for c in cotangents
            ]
        )

        def scaled(gradient: _Parts, factor: Any) -> _Parts:
            return _Parts(
                *(
                    None if own is None else (own * factor).astype(like.dtype)
                    for own, like in zip(gradient, _Parts.of(logits), strict=True)
                )
            )

        if len(cotangents) == 1:
            parts = scaled(gradient, totals[0])
        else:
            square = jnp.sum(shares**2)
            factor = jnp.sum(totals * shares) / jnp.where(square > 0, square, 1)
            off = jnp.max(jnp.abs(totals - factor * shares))
            parts = jax.lax.cond(
                off <= 1e-6 * jnp.max(jnp.abs(totals)),
                lambda: scaled(gradient, factor),
                lambda: scaled(_scan(function, logits, rows, shared, chunks, needed, totals)[1], 1),
            )
        return dataclasses.replace(logits, **parts._asdict()), None, None, None

    run.defvjp(forward, backward, symbolic_zeros=True)
    shares = jnp.ones(1, logits.dtype)
    if len(weights) > 1:
        counts = _counts(function, logits, rows, shared, chunks)
        shares = jnp.stack(
            [
                jnp.asarray(weight / jnp.where(count > 0, count, 1), logits.dtype)
                for weight, count in zip(weights, counts, strict=True)
            ]
        )
        # The largest is 1, as for one mean: half precision keeps numbers near 1 best.
        largest = jnp.max(jnp.abs(shares))
        shares = shares / jnp.where(largest > 0, largest, 1)
    return run(logits, rows, shared, jax.lax.stop_gradient(shares))


def _counts(
    function: OfChunk, logits: LogitsOf, rows: PyTree, shared: PyTree, chunks: Chunks
) -> tuple[Array, ...]:
    """The counts of all chunks; these do not depend on logits, which are zeros here."""
    divided = _divided((logits.hidden, rows), chunks)

    def of_chunk(_: None, index: Array) -> tuple[None, Any]:
        own, own_rows = _chunk(divided, index)
        zeros = jnp.zeros((own.shape[0], logits.classes), logits.dtype)
        return None, tuple(mean.count for mean in function(zeros, own_rows, shared))

    _, counts = jax.lax.scan(of_chunk, None, jnp.arange(chunks.number))
    return tuple(jnp.sum(count) for count in counts)


def map_in_chunks(
    function: OfChunk, logits: LogitsOf, rows: PyTree, shared: PyTree, chunks: Chunks
) -> PyTree:
    """A function of each position by itself, without a gradient.

    Args:
        function: ``(logits [chunk, classes], rows, shared) -> arrays with the chunk's positions as
            first axis``.
        logits: As for :func:`means_in_chunks`.
        rows: As for :func:`means_in_chunks`.
        shared: As for :func:`means_in_chunks`.
        chunks: From :func:`choose_chunks`.
    """
    logits, rows, shared = jax.lax.stop_gradient((logits, rows, shared))
    if chunks.number == 1:
        return function(logits.logits(), rows, shared)
    divided = _divided((logits.hidden, rows), chunks)

    def of_chunk(_: None, index: Array) -> tuple[None, PyTree]:
        own, own_rows = _chunk(divided, index)
        return None, function(dataclasses.replace(logits, hidden=own).logits(), own_rows, shared)

    _, found = jax.lax.scan(of_chunk, None, jnp.arange(chunks.number))
    return jax.tree.map(lambda x: _joined(x, chunks, logits.hidden.shape[0]), found)


class _Parts(NamedTuple):
    """The arrays of a :class:`LogitsOf`, or what belongs to each."""

    hidden: Any
    kernel: Any
    bias: Any

    @classmethod
    def of(cls, logits: LogitsOf) -> "_Parts":
        return cls(logits.hidden, logits.kernel, logits.bias)


def _scan(
    function: OfChunk,
    logits: LogitsOf,
    rows: PyTree,
    shared: PyTree,
    chunks: Chunks,
    needed: _Parts,
    shares: Array,
) -> tuple[tuple[Mean, ...], _Parts]:
    """The means of all chunks, and where needed the gradient of the totals times ``shares``."""
    divided, factors = _divided((logits.hidden, rows), chunks), logits.product_dtype

    def of_chunk(d_kernel: Any, index: Array) -> tuple[Any, Any]:
        own, own_rows = _chunk(divided, index)
        chunk = dataclasses.replace(logits, hidden=own)

        def of_products(products: Array, bias: Array | None) -> tuple[Mean, ...]:
            finished = dataclasses.replace(chunk, bias=bias).finish(products)
            means: tuple[Mean, ...] = function(finished, own_rows, shared)
            return means

        if not any(needed):
            return None, (of_products(chunk.products(), logits.bias), None, None)
        means, pull_back = jax.vjp(of_products, chunk.products(), logits.bias)
        cotangents = tuple(
            Mean(share.astype(mean.total.dtype), jnp.zeros_like(mean.count))
            for share, mean in zip(shares, means, strict=True)
        )
        d_products, d_bias = pull_back(cotangents)
        d_products = d_products.astype(factors)
        d_hidden = None
        if needed.hidden:
            d_hidden = _product(d_products, logits.kernel, 0 if logits.tied else 1)
        if needed.kernel:
            d_kernel = d_kernel + _outer(own.astype(factors), d_products, chunks.parts)
        return d_kernel, (means, d_hidden, d_bias if needed.bias else None)

    d_kernel = None
    if needed.kernel:
        several = (chunks.parts,) if chunks.parts > 1 else ()
        d_kernel = jnp.zeros((*several, logits.hidden.shape[-1], logits.classes), logits.dtype)
    d_kernel, (means, d_hidden, d_bias) = jax.lax.scan(
        of_chunk, d_kernel, jnp.arange(chunks.number)
    )
    if d_kernel is not None:
        d_kernel = jnp.sum(d_kernel, axis=0) if chunks.parts > 1 else d_kernel
        d_kernel = d_kernel.T if logits.tied else d_kernel
    if d_hidden is not None:
        d_hidden = _joined(d_hidden, chunks, logits.hidden.shape[0])
    d_bias = None if d_bias is None else jnp.sum(d_bias, axis=0)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), means), _Parts(d_hidden, d_kernel, d_bias)


def _product(left: Array, matrix: Array, axis: int) -> Array:
    """``left`` times ``matrix`` over an axis of it, accumulated in float32."""
    dimensions = (((1,), (axis,)), ((), ()))
    return jax.lax.dot_general(
        left, matrix.astype(left.dtype), dimensions,
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )  # fmt: skip


def _outer(hidden: Array, d_products: Array, parts: int) -> Array:
    """The gradient of the kernel ``[width, classes]``, one for each part if there are several."""
    dtype = jnp.promote_types(d_products.dtype, jnp.float32)
    if parts == 1:
        # XLA's CPU backend multiplies by a transposed copy faster than it contracts the first axis.
        transposed = jax.lax.optimization_barrier(hidden.T)
        return jnp.matmul(transposed, d_products, preferred_element_type=dtype)
    hidden, d_products = (x.reshape(parts, -1, x.shape[-1]) for x in (hidden, d_products))
    return jnp.einsum("pcd,pcv->pdv", hidden, d_products, preferred_element_type=dtype)


def _divided(rows: PyTree, chunks: Chunks) -> PyTree:
    """Rows as ``[parts, number, size, ...]``, with zeros beyond the last."""

    def divide(x: Array) -> Array:
        own = x.reshape(chunks.parts, -1, *x.shape[1:])
        missing = chunks.number * chunks.size - own.shape[1]
        if missing:
            own = jnp.pad(own, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 1))
        return own.reshape(chunks.parts, chunks.number, chunks.size, *x.shape[1:])

    return jax.tree.map(divide, rows)


def _chunk(divided: PyTree, index: Array) -> PyTree:
    """The rows of a chunk, ``[parts * size, ...]``."""

    def take(x: Array) -> Array:
        found = jax.lax.dynamic_index_in_dim(x, index, axis=1, keepdims=False)
        return found.reshape(-1, *x.shape[3:])

    return jax.tree.map(take, divided)


def _joined(x: Array, chunks: Chunks, positions: int) -> Array:
    """Chunks ``[number, parts * size, ...]`` in the order of the positions."""
    divided = x.reshape(chunks.number, chunks.parts, chunks.size, *x.shape[2:])
    whole = jnp.moveaxis(divided, 0, 1).reshape(chunks.parts, -1, *x.shape[2:])
    return whole[:, : positions // chunks.parts].reshape(positions, *x.shape[2:])


def _is_zero(cotangent: Any) -> bool:
    return isinstance(cotangent, jax.custom_derivatives.SymbolicZero)


def _is_primal(node: Any) -> bool:
    return isinstance(node, jax.custom_derivatives.CustomVJPPrimal)
