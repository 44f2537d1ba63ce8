"""The translation of a program: from the equations of JAX to a graph of ONNX."""

from typing import Any

import jax
import numpy as np

from ...errors import UsageError
from ..program import Program
from .fusion import fuse
from .graph import Graph, Node, Value
from .primitives import PRIMITIVES

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_LARGEST_FOLDED = 1 << 16
"""Elements of a constant that is computed here rather than by the runtime."""


def translate(program: Program) -> Graph:
    """The graph of a program; its inputs are int64, its sizes ``batch`` and ``length`` are free.

    Raises:
        UsageError: The model uses an operation that has no translation.
    """
    weights, inputs = program.abstract()
    traced = jax.jit(program.call).trace(weights, inputs).jaxpr
    graph = Graph()
    names = [*sorted(weights), *sorted(inputs)]  # the order of a pytree's leaves
    values = []
    for name, var in zip(names, traced.jaxpr.invars, strict=True):
        if name in weights:
            values.append(graph.weight(name, np.asarray(program.weights[name])))
            continue
        given = graph.declare(name, var.aval.shape, np.int64)
        if name == program.inputs[0]:
            graph.name_size("batch", given, 0)
            graph.name_size("length", given, 1)
        values.append(graph.cast(given, np.int32))
    try:
        results = _run(graph, traced.jaxpr, traced.consts, values)
    except NotImplementedError as error:
        raise UsageError(f"The ONNX export does not support {error}.") from error
    for name, result, var in zip(
        sorted(program.outputs), results, traced.jaxpr.outvars, strict=True
    ):
        full = graph.full(result, var.aval.shape)
        graph.declare(name, full.shape, full.dtype)
        graph.nodes.append(_identity(full.name, name))
    graph.keep(program.outputs)
    fuse(graph)
    graph.keep(program.outputs)
    return graph


def _identity(source: str, target: str) -> Node:
    return Node("Identity", (source,), (target,), {})


def _run(graph: Graph, jaxpr: Any, consts: Any, inputs: list[Value]) -> list[Value]:
    """Translates the equations of a jaxpr; returns the values of its outputs."""
    known: dict[Any, Value] = {}
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        known[var] = graph.constant(np.asarray(const))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        if hasattr(atom, "val"):
            return graph.constant(np.asarray(atom.val, atom.aval.dtype))
        return known[atom]

    for eqn in jaxpr.eqns:
        outputs = _equation(graph, eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    inner = next((eqn.params[key] for key in _CALLS if key in eqn.params), None)
    if inner is not None:
        return _run(graph, inner.jaxpr, inner.consts, inputs)
    folded = _folded(graph, eqn, inputs)
    if folded is not None:
        return folded
    if eqn.primitive.name not in PRIMITIVES:
        raise NotImplementedError(f"the operation {eqn.primitive.name!r}")
    outputs = PRIMITIVES[eqn.primitive.name](graph, eqn, *inputs)
    return [outputs] if isinstance(outputs, Value) else list(outputs)


def _folded(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value] | None:
    """The outputs of an equation of constants, computed here."""
    arrays = [value.constant for value in inputs if value.constant is not None]
    shapes = [var.aval.shape for var in eqn.outvars]
    sizes = [dim for shape in shapes for dim in shape]
    if eqn.primitive.name == "dim_as_value" or len(arrays) < len(inputs):
        return None
    if not all(isinstance(dim, int) for dim in sizes):
        return None
    if max(map(np.prod, shapes), default=0) > _LARGEST_FOLDED:
        return None
    given = [
        np.broadcast_to(array, var.aval.shape)
        for array, var in zip(arrays, eqn.invars, strict=True)
    ]
    outputs = eqn.primitive.bind(*map(jax.numpy.asarray, given), **eqn.params)
    outputs = outputs if eqn.primitive.multiple_results else [outputs]
    return [graph.constant(np.asarray(output)) for output in outputs]
