"""One function per primitive of JAX: what it is in ONNX.

A function gets the graph, the equation and its inputs as values, and returns the values of its
outputs. Inputs may be narrower than their arrays (see :mod:`.graph`); ``eqn.invars`` has the shapes
of the arrays.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .graph import Dim, Graph, Value, broadcast, same

Translate = Callable[..., Any]


def elementwise(op: str, dtype: Any = None) -> Translate:
    """The same operation in ONNX, which broadcasts."""

    def translate(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        shape = broadcast([value.shape for value in inputs])
        return graph.add(op, *inputs, shape=shape, dtype=dtype)

    return translate


def chain(*ops: str, dtype: Any = None) -> Translate:
    """Operations of one input that follow each other, after the first of several inputs."""

    def translate(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        value = elementwise(ops[0], dtype)(graph, eqn, *inputs)
        for op in ops[1:]:
            value = graph.add(op, value, shape=value.shape)
        return value

    return translate


def _same_value(graph: Graph, eqn: Any, x: Value) -> Value:
    return x


def _square(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Mul", x, x, shape=x.shape)


def _integer_pow(graph: Graph, eqn: Any, x: Value) -> Value:
    exponent = eqn.params["y"]
    if exponent in (2, 3):
        square = _square(graph, eqn, x)
        return square if exponent == 2 else graph.add("Mul", square, x, shape=x.shape)
    return graph.add("Pow", x, graph.constant(exponent, x.dtype), shape=x.shape)


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if which.dtype != np.bool_ or len(cases) != 2:
        raise NotImplementedError("select_n among more than two cases")
    shape = broadcast([which.shape, *(case.shape for case in cases)])
    return graph.add("Where", which, cases[1], cases[0], shape=shape, dtype=cases[0].dtype)


def _max(graph: Graph, eqn: Any, *inputs: Value) -> Value:
    """The larger; -inf, with which JAX's softmax begins, changes nothing."""
    rest = [x for x in inputs if x.constant is None or not np.all(np.isneginf(x.constant))]
    return elementwise("Max")(graph, eqn, *inputs) if len(rest) == len(inputs) else rest[0]


def _clamp(graph: Graph, eqn: Any, low: Value, x: Value, high: Value) -> Value:
    above = elementwise("Max")(graph, eqn, x, low)
    return elementwise("Min")(graph, eqn, above, high)


def _convert(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.cast(x, eqn.params["new_dtype"])


def _moved(graph: Graph, x: Value, rank: int, sources: Sequence[int | None]) -> Value:
    """Inserts and removes axes of size 1.

    Args:
        graph: The graph.
        x: The value, which may lack leading axes.
        rank: The rank of its array.
        sources: For each new axis, the old axis that it is, or ``None`` for a new one.
    """
    missing = rank - len(x.shape)
    kept = {axis - missing for axis in sources if axis is not None and axis >= missing}
    dropped = [axis for axis in range(len(x.shape)) if axis not in kept]
    if dropped:
        x = graph.squeeze(x, dropped)
    places = [
        place for place, axis in enumerate(sources) if axis is not None and axis - missing in kept
    ]
    first = places[0] if places else len(sources)
    inserted = [place - first for place in range(first, len(sources)) if place not in places]
    if not inserted:
        return x
    dims = iter(x.shape)
    shape = [1 if place in inserted else next(dims) for place in range(len(sources) - first)]
    return graph.add("Unsqueeze", x, graph.constant(inserted, np.int64), shape=shape)


def _broadcast_in_dim(graph: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    axes = eqn.params["broadcast_dimensions"]
    sources = [
        axes.index(place) if place in axes else None for place in range(len(eqn.params["shape"]))
    ]
    return _moved(graph, x, len(axes), sources)


def _squeeze(graph: Graph, eqn: Any, x: Value) -> Value:
    rank, gone = len(eqn.invars[0].aval.shape), eqn.params["dimensions"]
    return _moved(graph, x, rank, [axis for axis in range(rank) if axis not in gone])


def _reshape(graph: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    wide = [[axis for axis, dim in enumerate(shape) if str(dim) != "1"] for shape in (old, new)]
    if same([old[axis] for axis in wide[0]], [new[axis] for axis in wide[1]]):
        source = dict(zip(wide[1], wide[0], strict=True))
        return _moved(graph, x, len(old), [source.get(axis) for axis in range(len(new))])
    return graph.reshape(graph.full(x, old), new)


def _transpose(graph: Graph, eqn: Any, x: Value) -> Value:
    permutation = eqn.params["permutation"]
    return graph.transpose(graph.padded(x, len(permutation)), permutation)


def _reduce(op: str) -> Translate:
    def translate(graph: Graph, eqn: Any, x: Value) -> Value:
        array = eqn.invars[0].aval.shape
        missing = len(array) - len(x.shape)
        axes = [axis - missing for axis in eqn.params["axes"]]
        if any(axis < 0 or not same([x.shape[axis]], [array[axis + missing]]) for axis in axes):
            x, axes = graph.full(x, array), list(eqn.params["axes"])
        shape = [dim for axis, dim in enumerate(x.shape) if axis not in axes]
        which = graph.constant(axes, np.int64)
        return graph.add(op, x, which, shape=shape, keepdims=0)

    return translate


def _cumsum(graph: Graph, eqn: Any, x: Value) -> Value:
    x = graph.full(x, eqn.invars[0].aval.shape)
    axis, reverse = graph.constant(eqn.params["axis"], np.int64), int(eqn.params["reverse"])
    return graph.add("CumSum", x, axis, shape=x.shape, reverse=reverse)


def _iota(graph: Graph, eqn: Any) -> Value:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    end = graph.squeeze(graph.size(shape[axis]), [0])
    line = graph.add("Range", zero, end, one, shape=(shape[axis],))
    sources = [0 if place == axis else None for place in range(len(shape))]
    return graph.cast(_moved(graph, line, 1, sources), eqn.params["dtype"])


def _size(graph: Graph, eqn: Any) -> Value:
    """A symbolic size as a number."""
    size = graph.squeeze(graph.size(eqn.params["dim"]), [0])
    return graph.cast(size, eqn.outvars[0].aval.dtype)


def _concatenate(graph: Graph, eqn: Any, *inputs: Value) -> Value:
    full = [graph.full(x, var.aval.shape) for x, var in zip(inputs, eqn.invars, strict=True)]
    axis = eqn.params["dimension"]
    return graph.add("Concat", *full, shape=eqn.outvars[0].aval.shape, axis=axis)


def _split(graph: Graph, eqn: Any, x: Value) -> Sequence[Value]:
    x = graph.full(x, eqn.invars[0].aval.shape)
    sizes = graph.constant([int(size) for size in eqn.params["sizes"]], np.int64)
    shapes = [tuple(var.aval.shape) for var in eqn.outvars]
    return graph.add_many(
        "Split", x, sizes, shapes=shapes, dtype=x.dtype, axis=int(eqn.params["axis"])
    )


def _slice(graph: Graph, eqn: Any, x: Value) -> Value:
    old, p = eqn.invars[0].aval.shape, eqn.params
    strides = p["strides"] or (1,) * len(old)
    return sliced(graph, graph.full(x, old), p["start_indices"], p["limit_indices"], strides)


def sliced(
    graph: Graph, x: Value, starts: Sequence[Dim], ends: Sequence[Dim], strides: Sequence[int]
) -> Value:
    """The part of a value from ``starts`` to ``ends``."""
    axes = [
        axis
        for axis in range(len(x.shape))
        if str(starts[axis]) != "0" or strides[axis] != 1 or not same([ends[axis]], [x.shape[axis]])
    ]
    if not axes:
        return x
    shape = list(x.shape)
    for axis in axes:
        shape[axis] = -(-(ends[axis] - starts[axis]) // strides[axis])
    bounds = [graph.sizes([limits[axis] for axis in axes]) for limits in (starts, ends)]
    steps = graph.constant([strides[axis] for axis in axes], np.int64)
    return graph.add("Slice", x, *bounds, graph.constant(axes, np.int64), steps, shape=shape)


def _gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> Value:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    operand = tuple(eqn.invars[0].aval.shape)
    if len(numbers.start_index_map) != 1:
        raise NotImplementedError(f"a gather with {numbers}")
    (axis,) = numbers.start_index_map
    x = graph.full(x, operand)
    whole = all(
        same([size], [dim]) for place, (size, dim) in enumerate(zip(sizes, operand, strict=True))
        if place != axis and place not in numbers.operand_batching_dims
    )  # fmt: skip
    if whole and numbers.collapsed_slice_dims == (axis,):
        if numbers.operand_batching_dims:
            return _take_along(graph, eqn, x, indices, axis)
        return _take(graph, eqn, x, indices, axis)
    start = indices.constant
    if whole and not numbers.collapsed_slice_dims and start is not None and start.size == 1:
        starts: list[Dim] = [0] * len(operand)
        starts[axis] = int(start.item())
        ends = [begin + size for begin, size in zip(starts, sizes, strict=True)]
        return sliced(graph, x, starts, ends, [1] * len(operand))
    raise NotImplementedError(f"a gather with {numbers}")


def _take(graph: Graph, eqn: Any, x: Value, indices: Value, axis: int) -> Value:
    """``jnp.take``: rows of an axis."""
    rank = len(eqn.invars[1].aval.shape)
    indices = _moved(graph, graph.padded(indices, rank), rank, list(range(rank - 1)))
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    offsets = eqn.params["dimension_numbers"].offset_dims
    kept = [place for place in range(len(shape)) if not axis <= place < axis + rank - 1]
    if list(offsets) != kept:
        raise NotImplementedError("a gather that moves axes")
    return graph.add("Gather", x, indices, shape=shape, axis=axis)


def _take_along(graph: Graph, eqn: Any, x: Value, indices: Value, axis: int) -> Value:
    """``jnp.take_along_axis`` over the last axis, with indices that lack some of the others."""
    numbers = eqn.params["dimension_numbers"]
    rank = len(x.shape)
    batching = numbers.operand_batching_dims
    if axis != rank - 1 or list(numbers.offset_dims) != [
        place for place in range(rank - 1) if place not in batching
    ]:
        raise NotImplementedError("take_along_axis over other than the last axis")
    given = len(eqn.invars[1].aval.shape)
    indices = _moved(graph, graph.padded(indices, given), given, list(range(given - 1)))
    sources: list[int | None] = [None] * rank
    for place, source in zip(batching, numbers.start_indices_batching_dims, strict=True):
        sources[place] = source
    rest = [source for source in range(given - 1) if source not in sources]
    sources[axis] = rest[0]
    shape = tuple(eqn.outvars[0].aval.shape)
    indices = graph.full(_moved(graph, indices, given - 1, sources), shape)
    return graph.add("GatherElements", x, indices, shape=shape, axis=axis)


def _dot_general(graph: Graph, eqn: Any, left: Value, right: Value) -> Value:
    """Products of matrices: ``[*batch, left free, contracted] @ [*batch, contracted, right free]``.

    The operands are exchanged where the left one alone would have to be transposed.
    """
    (contract, batch) = eqn.params["dimension_numbers"]
    sides = [graph.full(x, v.aval.shape) for x, v in zip((left, right), eqn.invars, strict=True)]
    ranks = [len(side.shape) for side in sides]
    exchange = bool(batch[0]) and contract[0] != (ranks[0] - 1,) and contract[1] == (ranks[1] - 1,)
    order = (1, 0) if exchange else (0, 1)
    free = [
        [axis for axis in range(ranks[i]) if axis not in (*contract[i], *batch[i])] for i in (0, 1)
    ]
    dims = [[sides[i].shape[axis] for axis in free[i]] for i in (0, 1)]
    batches = [sides[0].shape[axis] for axis in batch[0]]
    first, second = order
    one = graph.transpose(sides[first], [*batch[first], *free[first], *contract[first]])
    two = graph.transpose(sides[second], [*batch[second], *contract[second], *free[second]])
    inner = math.prod(sides[first].shape[axis] for axis in contract[first])
    rows, columns = math.prod(dims[first]), math.prod(dims[second])
    one = graph.reshape(one, [*batches, rows, inner])
    two = graph.reshape(two, [*batches, inner, columns])
    shape = [*batches, rows, columns]
    product = graph.add("MatMul", one, two, shape=shape)
    product = graph.reshape(product, [*batches, *dims[first], *dims[second]])
    if not exchange:
        return product
    start, middle = len(batches), len(batches) + len(dims[first])
    return graph.transpose(
        product, [*range(start), *range(middle, len(product.shape)), *range(start, middle)]
    )


PRIMITIVES: dict[str, Translate] = {
    "abs": elementwise("Abs"),
    "add": elementwise("Add"),
    "add_any": elementwise("Add"),
    "and": elementwise("And"),
    "broadcast_in_dim": _broadcast_in_dim,
    "ceil": elementwise("Ceil"),
    "clamp": _clamp,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "copy": _same_value,
    "copy_p": _same_value,
    "cos": elementwise("Cos"),
    "cumsum": _cumsum,
    "dim_as_value": _size,
    "div": elementwise("Div"),
    "dot_general": _dot_general,
    "eq": elementwise("Equal", np.bool_),
    "erf": elementwise("Erf"),
    "exp": elementwise("Exp"),
    "floor": elementwise("Floor"),
    "gather": _gather,
    "ge": elementwise("GreaterOrEqual", np.bool_),
    "gt": elementwise("Greater", np.bool_),
    "integer_pow": _integer_pow,
    "iota": _iota,
    "le": elementwise("LessOrEqual", np.bool_),
    "log": elementwise("Log"),
    "logistic": elementwise("Sigmoid"),
    "lt": elementwise("Less", np.bool_),
    "max": _max,
    "min": elementwise("Min"),
    "mul": elementwise("Mul"),
    "ne": chain("Equal", "Not", dtype=np.bool_),
    "neg": elementwise("Neg"),
    "not": elementwise("Not"),
    "or": elementwise("Or"),
    "pow": elementwise("Pow"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rsqrt": chain("Sqrt", "Reciprocal"),
    "select_n": _select,
    "sign": elementwise("Sign"),
    "sin": elementwise("Sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": elementwise("Sqrt"),
    "square": _square,
    "squeeze": _squeeze,
    "stop_gradient": _same_value,
    "sub": elementwise("Sub"),
    "tanh": elementwise("Tanh"),
    "transpose": _transpose,
}
"""What each primitive of JAX is in ONNX."""
