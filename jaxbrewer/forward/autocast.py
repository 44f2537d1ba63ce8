"""Runs the matrix products and convolutions of any function in half precision.

Apex's level O1 replaces PyTorch's functions; this module rewrites the function's jaxpr.
It casts the operands of ``dot_general`` and ``conv_general_dilated`` and casts the results back.
Softmax, norms, reductions and activations keep their dtype.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .rewriting import call_rewritten

PRODUCTS = ("dot_general", "conv_general_dilated")


def autocast(function: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    """Wraps ``function`` so that products of float32 arrays are computed in ``dtype``.

    Args:
        function: Takes and returns pytrees of arrays.
        dtype: ``bfloat16`` or ``float16``.

    Returns:
        A function of the same arguments whose results have the same dtypes. Products with an
        explicit precision other than ``jax_default_matmul_precision`` and those within
        ``jax.custom_jvp`` or ``custom_vjp`` are not changed.

    Examples:
        >>> x = jnp.full((2, 2), 1 + 2**-10)
        >>> product = autocast(lambda x: x @ x - x, jnp.bfloat16)(x)
        >>> print(product.dtype, product[0, 0])  # 2, of ones, minus x, which is exact
        float32 0.99902344
    """

    def in_half(equation: Any, operands: list[Any]) -> Any:
        half = [operand.astype(dtype) for operand in map(jnp.asarray, operands)]
        params = {**equation.params, "precision": None, "preferred_element_type": dtype}
        return equation.primitive.bind(*half, **params).astype(equation.outvars[0].aval.dtype)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return call_rewritten(function, args, _is_castable, in_half)

    return call


def _is_castable(equation: Any) -> bool:
    if equation.primitive.name not in PRODUCTS:
        return False
    if equation.params["precision"] not in (None, _default_precision()):
        return False
    dtypes = [atom.aval.dtype for atom in (*equation.invars, *equation.outvars)]
    return jnp.float32 in dtypes and all(jnp.issubdtype(each, jnp.floating) for each in dtypes)


def _default_precision() -> Any:
    """What JAX writes into a product without an explicit precision; ``None`` if nothing is set."""
    one = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    (product,) = jax.make_jaxpr(jnp.dot)(one, one).jaxpr.eqns[-1:]
    if "jaxpr" in product.params:
        (product,) = product.params["jaxpr"].jaxpr.eqns[-1:]
    return product.params["precision"]
