"""Matrix products of bfloat16 arrays in the form that a CPU multiplies fastest.

Processors with instructions for bfloat16 (AVX512_BF16) multiply it twice as fast as float32. XLA
uses them only for products whose result is float32 and whose left operand is summed over its last
axis; others are cast to float32 before.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from .rewriting import call_rewritten


def fast_on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``function`` so that a CPU multiplies bfloat16 with its own instructions.

    Wrap the function that is compiled, derivatives included. Products are summed in float32 and
    rounded once, so they are no less exact. Nothing changes on an accelerator, on several
    devices, or outside of ``jax.jit``.

    Args:
        function: Takes and returns pytrees of arrays.

    Examples:
        >>> x = jnp.full((2, 2), 1.5, jnp.bfloat16)
        >>> print(jax.jit(fast_on_cpu(lambda x: x.T @ x))(x)[0, 0])
        4.5
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        if not is_traced or jax.default_backend() != "cpu" or jax.device_count() > 1:
            return function(*args)
        return call_rewritten(function, args, _is_bfloat16, _product)

    return call


def _is_bfloat16(equation: Any) -> bool:
    return equation.primitive.name == "dot_general" and all(
        atom.aval.dtype == jnp.bfloat16 for atom in equation.invars
    )


def _product(equation: Any, operands: list[Any]) -> Any:
    left, right = operands
    params = equation.params
    (summed, of_right), (batched, batched_right) = params["dimension_numbers"]
    last = tuple(range(left.ndim - len(summed), left.ndim))
    if tuple(sorted(summed)) != last:
        free = [axis for axis in range(left.ndim) if axis not in (*summed, *batched)]
        left = _row_major(left.transpose(*batched, *free, *summed))
        summed, batched = last, tuple(range(len(batched)))
    product = jax.lax.dot_general(
        left,
        right,
        ((summed, of_right), (batched, batched_right)),
        precision=params["precision"],
        preferred_element_type=jnp.float32,
    )
    return product.astype(equation.outvars[0].aval.dtype)


def _row_major(x: jax.Array) -> jax.Array:
    """``x`` with its last axis contiguous in memory, which a transpose is not by itself."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
