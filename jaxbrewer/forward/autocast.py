"""Runs the matrix products and convolutions of any function in half precision.

Apex's level O1 replaces PyTorch's functions; this module rewrites the function's jaxpr.
It casts the operands of ``dot_general`` and ``conv_general_dilated`` and casts the results back.
Softmax, norms, reductions and activations keep their dtype.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

PRODUCTS = ("dot_general", "conv_general_dilated")

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
_LOOPS = ("scan", "while", "cond")
"""Primitives whose inner jaxprs are rewritten; those of ``custom_jvp`` are not."""


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

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), dtype)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return call


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], dtype: Any) -> list[Any]:
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        with equation.ctx.manager:
            results = _apply(equation, operands, dtype)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list[Any], dtype: Any) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if _is_castable(equation):
        half = [operand.astype(dtype) for operand in map(jnp.asarray, operands)]
        params = {**params, "precision": None, "preferred_element_type": dtype}
        result = primitive.bind(*half, **params)
        return [result.astype(equation.outvars[0].aval.dtype)]
    if primitive.name in _CALLS + _LOOPS:
        params = {name: _rewritten(value, dtype) for name, value in params.items()}
    results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]


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


def _rewritten(value: Any, dtype: Any) -> Any:
    """A parameter of a call or a loop, with its jaxprs that contain products rewritten."""
    if isinstance(value, tuple):
        return tuple(_rewritten(item, dtype) for item in value)
    if not hasattr(value, "eqns") or not _has_products(value):
        return value
    if not hasattr(value, "consts"):  # a jaxpr without constants, in JAX before 0.12
        return _rewritten(core.ClosedJaxpr(value, ()), dtype).jaxpr
    args = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
        for aval in value.in_avals
    ]
    return jax.make_jaxpr(lambda *args: _evaluate(value.jaxpr, value.consts, args, dtype))(*args)


def _has_products(jaxpr: Any) -> bool:
    """Whether a jaxpr contains a product to cast."""
    return any(
        _is_castable(equation)
        or (
            equation.primitive.name in _CALLS + _LOOPS
            and any(map(_has_products, core.jaxprs_in_params(equation.params)))
        )
        for equation in jaxpr.eqns
    )
