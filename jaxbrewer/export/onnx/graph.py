"""A builder of ONNX graphs: values with symbolic shapes, nodes without duplicates.

A value may be narrower than the array of JAX that it stands for: axes of size 1, or leading axes
that are absent, are broadcast as in NumPy. So broadcasts become nodes only where an operation does
not broadcast by itself.
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Dim = Any
"""An int, or a symbolic size of JAX, whose text is an expression in ``batch`` and ``length``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An edge of the graph.

    Attributes:
        name: Its name.
        shape: Its sizes.
        dtype: Its dtype.
        constant: Its content where it is known; weights are not constants.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: np.dtype[Any]
    constant: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """An operation of ONNX.

    Attributes:
        op: Its type.
        inputs: Names of values; ``""`` for an optional input that is absent.
        outputs: Names of values.
        attributes: Its attributes.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Graph:
    """A graph under construction.

    Attributes:
        nodes: The nodes in the order in which they run.
        initializers: Weights and constants by name.
        values: All values by name.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.values: dict[str, Value] = {}
        self._known: dict[Any, tuple[Value, ...]] = {}
        self._producers: dict[str, Node] = {}
        self._sizes: dict[str, Value] = {}

    def declare(self, name: str, shape: Sequence[Dim], dtype: Any) -> Value:
        """A value of a given name, such as an input."""
        value = Value(name, tuple(shape), np.dtype(dtype))
        self.values[name] = value
        return value

    def weight(self, name: str, array: np.ndarray) -> Value:
        """An initializer that is not folded."""
        self.initializers[name] = array
        return self.declare(name, array.shape, array.dtype)

    def constant(self, array: Any, dtype: Any = None) -> Value:
        """A constant; equal ones are stored once."""
        array = np.asarray(array, dtype)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"constant_{len(self.initializers)}"
            self.initializers[name] = array
            value = Value(name, array.shape, array.dtype, array)
            self.values[name] = value
            self._known[key] = (value,)
        return self._known[key][0]

    def add(
        self, op: str, *inputs: Value, shape: Sequence[Dim], dtype: Any = None, **attributes: Any
    ) -> Value:
        """Adds a node of one output, or finds the same one.

        Args:
            op: Its type.
            inputs: Its inputs.
            shape: The shape of its output.
            dtype: The dtype of its output; by default that of the first input.
            attributes: Its attributes.
        """
        dtype = inputs[0].dtype if dtype is None else dtype
        return self.add_many(op, *inputs, shapes=[tuple(shape)], dtype=dtype, **attributes)[0]

    def add_many(
        self, op: str, *inputs: Value, shapes: Sequence[Any], dtype: Any, **attributes: Any
    ) -> tuple[Value, ...]:
        """:meth:`add` for several outputs of one dtype."""
        names = tuple(value.name for value in inputs)
        key = (op, names, repr(sorted(attributes.items())), len(shapes))
        if key not in self._known:
            start = f"{op}_{len(self.nodes)}"
            outputs = tuple(
                self.declare(start if not number else f"{start}_{number}", shape, dtype)
                for number, shape in enumerate(shapes)
            )
            node = Node(op, names, tuple(out.name for out in outputs), attributes)
            self.nodes.append(node)
            self._producers.update(dict.fromkeys(node.outputs, node))
            self._known[key] = outputs
        return self._known[key]

    def source(self, value: Value, op: str) -> Node | None:
        """The node that makes a value, if it is of this type."""
        node = self._producers.get(value.name)
        return node if node is not None and node.op == op else None

    def name_size(self, name: str, value: Value, axis: int) -> None:
        """Makes a symbolic size the size of an axis of an input."""
        shape = self.add("Shape", value, shape=(1,), dtype=np.int64, start=axis, end=axis + 1)
        self._sizes[name] = shape

    def size(self, dim: Dim) -> Value:
        """A size, int64 ``[1]``."""
        return self._expression(ast.parse(str(dim), mode="eval").body)

    def _expression(self, node: ast.expr) -> Value:
        operations = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
        match node:
            case ast.Constant(value=int(number)):
                return self.constant([number], np.int64)
            case ast.Name(id=name) if name in self._sizes:
                return self._sizes[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in operations:
                parts = self._expression(left), self._expression(right)
                return self.add(operations[type(op)], *parts, shape=(1,))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.add("Neg", self._expression(operand), shape=(1,))
        raise NotImplementedError(f"the size {ast.unparse(node)}")

    def sizes(self, dims: Sequence[Dim]) -> Value:
        """A shape, int64 ``[rank]``."""
        if all(isinstance(dim, int) for dim in dims):
            return self.constant(list(dims), np.int64)
        parts = [self.size(dim) for dim in dims]
        return (
            self.add("Concat", *parts, shape=(len(dims),), axis=0) if len(parts) > 1 else parts[0]
        )

    def padded(self, value: Value, rank: int) -> Value:
        """The value with leading axes of size 1 up to a rank."""
        missing = rank - len(value.shape)
        if not missing:
            return value
        axes = self.constant(range(missing), np.int64)
        return self.add("Unsqueeze", value, axes, shape=(1,) * missing + value.shape)

    def full(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The value broadcast to a shape."""
        if same(value.shape, shape):
            return value
        if all(isinstance(dim, int) and dim == 1 for dim in shape):
            return self.padded(value, len(shape))
        return self.add("Expand", value, self.sizes(shape), shape=tuple(shape))

    def cast(self, value: Value, dtype: Any) -> Value:
        """The value in another dtype."""
        from onnx import helper

        if np.dtype(dtype) == value.dtype:
            return value
        code = int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return self.add("Cast", value, shape=value.shape, dtype=np.dtype(dtype), to=code)

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        """The value with its axes in another order; transpositions in a row become one."""
        order = [int(axis) for axis in permutation]
        before = self.source(value, "Transpose")
        if before is not None:
            order = [before.attributes["perm"][axis] for axis in order]
            value = self.values[before.inputs[0]]
        if order == list(range(len(order))):
            return value
        return self.add("Transpose", value, shape=[value.shape[axis] for axis in order], perm=order)

    def squeeze(self, value: Value, axes: Sequence[int]) -> Value:
        """The value without axes of size 1."""
        which = self.constant(axes, np.int64)
        before = self.source(value, "Unsqueeze")
        if before is not None and before.inputs[1] == which.name:
            return self.values[before.inputs[0]]
        shape = [dim for axis, dim in enumerate(value.shape) if axis not in axes]
        return self.add("Squeeze", value, which, shape=shape)

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The value in another shape, with the fewest nodes that compute sizes."""
        if same(value.shape, shape):
            return value
        codes: list[Any] = [
            0 if number < len(value.shape) and same([dim], [value.shape[number]]) else dim
            for number, dim in enumerate(shape)
        ]
        free = [number for number, code in enumerate(codes) if not isinstance(code, int)]
        if len(free) == 1:
            codes[free[0]] = -1
        elif len(free) > 1 and not all(isinstance(dim, int) for dim in shape):
            codes = list(shape)
        return self.add("Reshape", value, self.sizes(codes), shape=tuple(shape))

    def keep(self, outputs: Sequence[str]) -> None:
        """Removes what no output depends on."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        self.nodes = nodes[::-1]
        self.initializers = {n: array for n, array in self.initializers.items() if n in needed}


def same(one: Sequence[Dim], other: Sequence[Dim]) -> bool:
    """Whether two shapes are the same expressions.

    Examples:
        >>> same((1, 2), (1, 2)), same((1, 2), (2,))
        (True, False)
    """
    return len(one) == len(other) and all(str(a) == str(b) for a, b in zip(one, other, strict=True))


def broadcast(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The shape of an elementwise operation, as in NumPy.

    Examples:
        >>> broadcast([(3,), (2, 1), ()])
        (2, 3)
    """
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((dim for dim in dims if str(dim) != "1"), 1) for dims in zip(*padded, strict=True)
    )
