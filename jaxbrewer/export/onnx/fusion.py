"""Patterns of several nodes that ONNX has one operation for: LayerNormalization, Softmax, Gelu.

The graph computes the same without them. Runtimes have faster code for the single operations.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .graph import Graph, Node

Pattern = Any
"""A tuple of an operation and the patterns of its inputs; a string, which stands for any value, the
same one wherever it occurs; or a number, a constant of one element."""

_COMMUTATIVE = ("Add", "Mul")


@dataclasses.dataclass(frozen=True)
class Fusion:
    """A pattern and what replaces it.

    Attributes:
        pattern: The pattern.
        replace: From the values that the pattern's strings stand for to the operation, its inputs
            and its attributes; ``None`` if it does not apply after all.
    """

    pattern: Pattern
    replace: Callable[[Graph, Mapping[str, str]], tuple[str, list[str], dict[str, Any]] | None]


def _last_axis(graph: Graph, found: Mapping[str, str], *names: str) -> bool:
    """Whether the axes of reductions are the last of ``x``."""
    rank = len(graph.values[found["x"]].shape)
    axes = [graph.values[found[name]].constant for name in names]
    return all(axis is not None and axis.tolist() in ([rank - 1], [-1]) for axis in axes)


def _layer_norm(
    graph: Graph, found: Mapping[str, str]
) -> tuple[str, list[str], dict[str, Any]] | None:
    values = graph.values
    width = values[found["x"]].shape[-1]
    scale, epsilon, count = values[found["scale"]], values[found["eps"]], values[found["n"]]
    fits = (
        _last_axis(graph, found, "axis")
        and all(value.constant is not None for value in (epsilon, count))
        and scale.shape == (width,)
    )
    if not fits or float(np.asarray(count.constant).item()) != width:
        return None
    inputs = [found["x"], found["scale"]]
    if "bias" in found:
        if values[found["bias"]].shape != (width,):
            return None
        inputs.append(found["bias"])
    return "LayerNormalization", inputs, {
        "axis": -1, "epsilon": float(np.asarray(epsilon.constant).item()),
    }  # fmt: skip


def _softmax(
    graph: Graph, found: Mapping[str, str]
) -> tuple[str, list[str], dict[str, Any]] | None:
    return ("Softmax", [found["x"]], {"axis": -1}) if _last_axis(graph, found, "axis") else None


def _mean(x: Pattern) -> Pattern:
    return ("Unsqueeze", ("Div", ("ReduceSum", x, "axis"), "n"), "new")


_CENTRED = ("Sub", "x", _mean("x"))
_NORMED = (
    "Mul",
    _CENTRED,
    (
        "Mul",
        ("Reciprocal", ("Sqrt", ("Add", _mean(("Mul", _CENTRED, _CENTRED)), "eps"))),
        "scale",
    ),
)
_EXPONENTIALS = ("Exp", ("Sub", "x", ("Unsqueeze", ("ReduceMax", "x", "axis"), "new")))
_CUBE = ("Mul", ("Mul", "x", "x"), "x")
_TANH = ("Tanh", ("Mul", 0.7978845608, ("Add", "x", ("Mul", 0.044715, _CUBE))))

FUSIONS = (
    Fusion(("Add", _NORMED, "bias"), _layer_norm),
    Fusion(_NORMED, _layer_norm),
    Fusion(("Div", _EXPONENTIALS, ("Unsqueeze", ("ReduceSum", _EXPONENTIALS, "axis"), "new")),
           _softmax),
    Fusion(("Mul", ("Mul", "x", 0.5), ("Add", 1.0, ("Erf", ("Mul", "x", 0.70710678)))),
           lambda graph, found: ("Gelu", [found["x"]], {"approximate": "none"})),
    Fusion(("Mul", "x", ("Mul", 0.5, ("Add", 1.0, _TANH))),
           lambda graph, found: ("Gelu", [found["x"]], {"approximate": "tanh"})),
)  # fmt: skip
"""In the order in which they are tried."""


def fuse(graph: Graph) -> None:
    """Replaces the last node of every pattern; the others stay until nothing reads them."""
    for fusion in FUSIONS:
        producers = {out: node for node in graph.nodes for out in node.outputs}
        for number, node in enumerate(graph.nodes):
            found = _match(graph, producers, fusion.pattern, node.outputs[0], {})
            replaced = fusion.replace(graph, found) if found is not None else None
            if replaced is not None:
                op, inputs, attributes = replaced
                graph.nodes[number] = Node(op, tuple(inputs), node.outputs, attributes)
                producers[node.outputs[0]] = graph.nodes[number]
        graph.keep([out for node in graph.nodes if node.op == "Identity" for out in node.outputs])


def _match(
    graph: Graph,
    producers: Mapping[str, Node],
    pattern: Pattern,
    name: str,
    found: dict[str, str],
) -> dict[str, str] | None:
    """What the pattern's strings stand for where it ends in a value; ``None`` if it does not."""
    if isinstance(pattern, str):
        return {**found, pattern: name} if found.get(pattern, name) == name else None
    if isinstance(pattern, float):
        constant = graph.values[name].constant
        close = (
            constant is not None and constant.size == 1 and abs(constant.item() - pattern) < 1e-6
        )
        return found if close else None
    op, *parts = pattern
    node = producers.get(name)
    if node is None or node.op != op or len(node.inputs) != len(parts):
        return None
    orders = [node.inputs, node.inputs[::-1]] if op in _COMMUTATIVE else [node.inputs]
    for inputs in orders:
        bound: dict[str, str] | None = found
        for part, given in zip(parts, inputs, strict=True):
            bound = _match(graph, producers, part, given, bound) if bound is not None else None
        if bound is not None:
            return bound
    return None
