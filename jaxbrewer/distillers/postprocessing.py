"""Batch postprocessors, which may read the student as it is at that step."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from ..errors import UsageError
from ..forward.model import Batch, Model, PyTree

Postprocessor: TypeAlias = Callable[..., Any] | None
"""``batch -> batch``, or ``(batch, student=...) -> batch``."""

Weights: TypeAlias = Callable[[], tuple[PyTree, PyTree]]
"""Returns ``(params, model_state)``, for those who need them."""

Postprocess: TypeAlias = Callable[[Batch, Weights], Batch]
"""``(batch, weights) -> batch``."""


def make_postprocess(function: Postprocessor, student: Model, given: Any = None) -> Postprocess:
    """Builds the function that a training applies to every batch.

    Args:
        function: The user's. If it has a parameter ``student``, it gets the student with the
            weights of the step before, in evaluation mode, of the kind that was given.
        student: The student.
        given: The student as the user gave it. A function that holds it is warned of.

    Raises:
        UsageError: It is not a function; or, when applied, it returns ``None``.
    """
    if function is None:
        return lambda batch, weights: batch
    if not callable(function):
        raise UsageError(
            f"batch_postprocessor must be a function of a batch, got {type(function).__name__}."
        )
    with_student = takes_student(function)
    if not with_student and any(value is given for value in _held_by(function)):
        warnings.warn(
            "batch_postprocessor reads the student from outside, which keeps its initial weights "
            "until train() returns: give it a parameter 'student', which gets the present ones.",
            stacklevel=4,
        )

    def postprocess(batch: Batch, weights: Weights) -> Batch:
        present = {"student": student.export(*weights())} if with_student else {}
        processed = function(batch, **present)
        if processed is None:
            raise UsageError("batch_postprocessor returned None: it must return the batch.")
        return processed

    return postprocess


def takes_student(function: Postprocessor) -> bool:
    """Whether a postprocessor has a parameter ``student``."""
    try:
        return function is not None and "student" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function without a signature
        return False


def _held_by(function: Any) -> Iterator[Any]:
    """The objects that a function reads from outside: closure, globals, ``partial``, ``self``."""
    while isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        function = function.func
    if hasattr(function, "__self__"):
        yield function.__self__
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from (function.__globals__[n] for n in code.co_names if n in function.__globals__)
