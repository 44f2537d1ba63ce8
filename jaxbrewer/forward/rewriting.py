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


def evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], chooses: Choice, product: Product
) -> list[Any]:
    """Evaluates a jaxpr with its chosen products replaced.

    Args:
        jaxpr: An open jaxpr.
        consts: The values of its constants.
        args: The values of its inputs.
        chooses: Whether to replace an equation.
        product: What replaces it.
    """
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


def has_products(jaxpr: Any, chooses: Choice) -> bool:
    """Whether a jaxpr, or one inside it, contains a chosen product."""
    return any(
        chooses(equation)
        or (
            equation.primitive.name in _CALLS + _LOOPS
            and any(
                has_products(inner, chooses) for inner in core.jaxprs_in_params(equation.params)
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
    if not hasattr(value, "eqns") or not has_products(value, chooses):
        return value
    if not hasattr(value, "consts"):  # a jaxpr without constants, in JAX before 0.12
        return _rewritten(core.ClosedJaxpr(value, ()), chooses, product).jaxpr
    args = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
        for aval in value.in_avals
    ]

    def run(*args: Any) -> list[Any]:
        return evaluate(value.jaxpr, value.consts, args, chooses, product)

    return jax.make_jaxpr(run)(*args)
