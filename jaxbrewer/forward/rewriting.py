"""Replaces the matrix products of any function, by rewriting its jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

Product = Callable[[Any, list[Any]], Any]
"""``(equation, operands) -> result``: computes a product in another way, of the same dtype."""
Choice = Callable[[Any], bool]
"""``equation -> whether the product is replaced``."""

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
_LOOPS = ("scan", "while", "cond")
"""Primitives whose inner jaxprs are rewritten; those of ``custom_jvp`` are not."""


def call_rewritten(
    function: Callable[..., Any], args: Sequence[Any], chooses: Choice, product: Product
) -> Any:
    """Calls a function with its chosen products replaced.

    Args:
        function: Takes and returns pytrees of arrays.
        args: Its arguments.
        chooses: Whether to replace an equation.
        product: What replaces it.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    leaves = jax.tree.leaves(args)
    if _has_products(closed.jaxpr, chooses):
        outputs = _evaluate(closed.jaxpr, closed.consts, leaves, chooses, product)
    else:
        outputs = core.jaxpr_as_fun(closed)(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], chooses: Choice, product: Product
) -> list[Any]:
    """Evaluates an open jaxpr with its chosen products replaced."""
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        with equation.ctx.manager:
            results = _apply(equation, operands, chooses, product)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _has_products(jaxpr: Any, chooses: Choice) -> bool:
    """Whether a jaxpr, or one inside it, contains a chosen product."""
    return any(
        chooses(equation)
        or (
            equation.primitive.name in _CALLS + _LOOPS
            and any(
                _has_products(inner, chooses) for inner in core.jaxprs_in_params(equation.params)
            )
        )
        for equation in jaxpr.eqns
    )


def _apply(equation: Any, operands: list[Any], chooses: Choice, product: Product) -> Sequence[Any]:
    if chooses(equation):
        return [product(equation, operands)]
    primitive, params = equation.primitive, equation.params
    if primitive.name in _CALLS + _LOOPS:
        params = {name: _rewritten(value, chooses, product) for name, value in params.items()}
    results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]


def _rewritten(value: Any, chooses: Choice, product: Product) -> Any:
    """A parameter of a call or a loop, with its jaxprs that contain chosen products rewritten."""
    if isinstance(value, tuple):
        return tuple(_rewritten(item, chooses, product) for item in value)
    if not hasattr(value, "eqns") or not _has_products(value, chooses):
        return value
    if not hasattr(value, "consts"):  # a jaxpr without constants, in JAX before 0.12
        return _rewritten(core.ClosedJaxpr(value, ()), chooses, product).jaxpr
    args = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
        for aval in value.in_avals
    ]

    def run(*args: Any) -> list[Any]:
        return _evaluate(value.jaxpr, value.consts, args, chooses, product)

    return jax.make_jaxpr(run)(*args)
