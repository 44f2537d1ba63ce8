"""Comparisons of the logits of two models, by chunks of positions."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._chunk_sizes import Chunks, choose_chunks, describe
from ._chunks import map_in_chunks, means_in_chunks
from ._facts import add_fact
from ._logits_of import LogitsOf
from ._reduction import Mean, selected

Result = TypeVar("Result")


class Positions(NamedTuple):
    """What a comparison takes besides logits; arrays have the logits' shape without the classes.

    Attributes:
        temperature: A scalar, or one per example or position.
        mask: Positions that count; ``None`` for all.
        labels: Class numbers, or ``None``.
        weights: Weights: ``None``, a scalar, or one per example or position.
        along: A pytree of further arrays per position.
    """

    temperature: Any = 1.0
    mask: Any = None
    labels: Any = None
    weights: Any = None
    along: Any = None


def whole_logits(what: str, logits: Any) -> Any:
    """The logits of a :class:`LogitsOf` as an array, which is a fact; anything else as it is.

    Args:
        what: Names the logits in the fact.
        logits: The logits.

    Examples:
        >>> whole_logits("logits", jnp.zeros((2, 3))).shape
        (2, 3)
    """
    if not isinstance(logits, LogitsOf):
        return logits
    count = math.prod(logits.shape[:-1])
    add_fact(f"{what}: {describe(Chunks(1, count), count, logits.classes)}")
    return logits.logits()


def compare_in_chunks(
    function: Callable[[Array, Any, Positions], tuple[Mean, ...]],
    student: LogitsOf,
    teacher: Any,
    positions: Positions,
    chunks: Chunks | None = None,
    *,
    what: str,
    weights: Sequence[Any] = (1.0,),
) -> tuple[Mean, ...]:
    """Each :class:`Mean` of a comparison of logits, by chunks of positions.

    Args:
        function: ``(logits_S [n, classes], logits_T, Positions) -> tuple of Mean`` of a chunk,
            whose mask is given if it has positions beyond the last.
        student: The student's logits, to whose parts the gradient goes.
        teacher: The teacher's: a :class:`LogitsOf`, an array, or any pytree of arrays with the
            student's axes of positions; ``function`` gets an array for the first.
        positions: What else it takes.
        chunks: From :func:`choose_chunks`; ``None`` chooses.
        what: Names the loss among the facts that :func:`collect_facts` collects.
        weights: The weight of each mean in the loss, as far as it is known: their gradients are
            then made together.
    """
    count = math.prod(student.shape[:-1])
    chunks = choose_chunks(count, student.classes) if chunks is None else chunks
    add_fact(f"{what}: {describe(chunks, count, student.classes)}")
    run = functools.partial(means_in_chunks, weights=weights)
    means: tuple[Mean, ...] = _in_chunks(run, function, student, teacher, positions, chunks)
    return means


def map_positions(
    function: Callable[[Array, Any, Positions], Result],
    student: LogitsOf,
    teacher: Any = None,
    positions: Positions = Positions(),  # noqa: B008  # immutable
    chunks: Chunks | None = None,
) -> Result:
    """A function of the logits at each position, by chunks and without a gradient.

    Args:
        function: As for :func:`compare_in_chunks`; returns arrays whose first axis is that of its
            positions.
        student: Logits.
        teacher: Logits to compare with, or ``None``.
        positions: What else ``function`` takes.
        chunks: From :func:`choose_chunks`; ``None`` chooses.

    Returns:
        What ``function`` returns, with the axes of all positions.

    Examples:
        >>> logits = LogitsOf(jnp.ones((2, 3, 1)), jnp.array([[0.0, 2.0, 1.0]]))
        >>> map_positions(lambda logits, *_: logits.argmax(-1), logits).tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    found = _in_chunks(map_in_chunks, function, student, teacher, positions, chunks)
    batch = student.shape[:-1]
    whole: Result = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)
    return whole


def _in_chunks(
    run: Callable[..., Any],
    function: Callable[..., Any],
    student: LogitsOf,
    teacher: Any,
    positions: Positions,
    chunks: Chunks | None,
) -> Any:
    """``run`` of a function of a chunk's logits, over positions in one axis."""
    batch = student.shape[:-1]
    count = math.prod(batch)
    chunks = choose_chunks(count, student.classes) if chunks is None else chunks
    if chunks.number * chunks.size * chunks.parts != count and positions.mask is None:
        positions = positions._replace(mask=jnp.ones(batch, bool))

    def flat(x: Array) -> Array:
        return x.reshape(count, *x.shape[len(batch) :])

    def spread(x: Any) -> Any:
        """One per example or position, as one per position in one axis."""
        own = x.reshape(x.shape + (1,) * (len(batch) - x.ndim))
        return jnp.broadcast_to(own, batch).reshape(count)

    fields = positions._replace(along=None)._asdict()
    arrays = {name: jnp.asarray(x) for name, x in fields.items() if x is not None}
    rows: dict[str, Any] = {name: spread(x) for name, x in arrays.items() if x.ndim}
    shared: dict[str, Any] = {name: x for name, x in arrays.items() if not x.ndim}
    rows["along"] = jax.tree.map(flat, positions.along)
    is_head = isinstance(teacher, LogitsOf)
    if is_head:
        rows["teacher"], shared["kernel"], shared["bias"] = (
            flat(teacher.hidden), teacher.kernel, teacher.bias,
        )  # fmt: skip
    else:
        rows["teacher"] = jax.tree.map(flat, teacher)

    def of_chunk(logits: Array, rows: dict[str, Any], shared: dict[str, Any]) -> Any:
        given = {name: each for name, each in {**rows, **shared}.items() if name in arrays}
        if "temperature" in rows and "mask" in rows:  # rows beyond the last hold zeros
            given["temperature"] = jnp.where(selected(given["mask"]), given["temperature"], 1)
        logits_T = rows["teacher"]
        if is_head:
            head = {name: shared[name] for name in ("kernel", "bias")}
            logits_T = dataclasses.replace(teacher, hidden=logits_T, **head).logits()
        return function(logits, logits_T, Positions(**given, along=rows["along"]))

    own = dataclasses.replace(student, hidden=flat(student.hidden))
    return run(of_chunk, own, rows, shared, chunks)
