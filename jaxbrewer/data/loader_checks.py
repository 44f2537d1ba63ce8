"""What is not a loader of batches, with the remedy: dicts, arrays, tables, data sets of rows."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError


class _RowLibrary(NamedTuple):
    """A library whose data sets yield single examples unless they are batched."""

    modules: tuple[str, ...]
    """Where the classes of its data sets are defined."""
    remedy: str


_ROW_LIBRARIES = (
    _RowLibrary(
        ("datasets.arrow_dataset", "datasets.iterable_dataset"),
        'dataset.batch(batch_size), or ArrayLoader(dataset.with_format("numpy")[:], batch_size)',
    ),
    _RowLibrary(("tensorflow.python.data",), "dataset.batch(batch_size)"),
    _RowLibrary(("torch.utils.data",), "torch.utils.data.DataLoader(dataset, batch_size)"),
)


def check_loader(dataloader: Any) -> None:
    """Checks the type of a dataloader.

    Raises:
        UsageError: Iterating over it would not yield batches.
    """
    kind = type(dataloader).__name__
    if isinstance(dataloader, Mapping) or (
        hasattr(dataloader, "columns") and hasattr(dataloader, "to_numpy")
    ):
        raise UsageError(
            f"The dataloader is {_a(kind)}, which yields its names, not batches: give "
            "ArrayLoader(data, batch_size)."
        )
    if isinstance(dataloader, np.ndarray) or (
        hasattr(dataloader, "__array__") and hasattr(dataloader, "shape")
    ):
        raise UsageError(
            f"The dataloader is an array ({kind}), which yields its rows, not batches: give "
            'ArrayLoader({"x": array}, batch_size).'
        )
    if inspect.isclass(dataloader) or inspect.isroutine(dataloader):
        raise UsageError(
            f"The dataloader must be an iterable of batches, got {dataloader.__name__} itself: "
            "call it."
        )
    if isinstance(dataloader, (list, tuple)):
        axes = {np.ndim(item) if hasattr(item, "shape") else None for item in dataloader}
        if len(axes) > 1 and None not in axes:
            raise UsageError(
                f"The dataloader is a {kind} of arrays with different numbers of axes, not of "
                "batches: give ArrayLoader((x, y), batch_size)."
            )
    library = _library_of(dataloader)
    if library is not None and not isinstance(dataloader, Iterable):
        raise UsageError(
            f"The dataloader is a data set of single examples ({kind}): give {library.remedy}."
        )
    if not isinstance(dataloader, Iterable) or isinstance(dataloader, (str, bytes)):
        raise UsageError(f"The dataloader must be an iterable of batches, got {kind}.")


def check_first_batch(dataloader: Any, batch: Any) -> None:
    """Checks the first batch of a data set of a library whose data sets hold examples.

    Raises:
        UsageError: None of its entries has a second axis, as those of a single example.
    """
    library = _library_of(dataloader)
    if library is None:
        return
    values = batch.values() if isinstance(batch, Mapping) else batch
    values = values if isinstance(values, Iterable) and not hasattr(values, "shape") else [values]
    if all(_axes(value) < 2 for value in values):
        raise UsageError(
            f"The dataloader is a data set of single examples ({type(dataloader).__name__}), not "
            f"of batches: give {library.remedy}."
        )


def length_of(dataloader: Any) -> int | None:
    """``len(dataloader)``, or ``None`` where it has none or does not know it."""
    cardinality = getattr(dataloader, "cardinality", None)  # of tf.data; -1 is infinite
    if callable(cardinality) and int(cardinality()) == -1:
        return 2**60
    try:
        return len(dataloader)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _library_of(dataloader: Any) -> _RowLibrary | None:
    """The library of a data set of examples; ``None`` for a ``DataLoader`` and any other class."""
    names = {base.__name__ for base in type(dataloader).__mro__}
    if "DataLoader" in names:
        return None
    modules = [base.__module__ for base in type(dataloader).__mro__]
    return next(
        (each for each in _ROW_LIBRARIES if any(m.startswith(each.modules) for m in modules)), None
    )


def _axes(value: Any) -> int:
    """The number of axes of an array, or of nested lists."""
    if isinstance(value, Mapping):
        return max(map(_axes, value.values()), default=0)
    if isinstance(value, (list, tuple)):
        return 1 + (_axes(value[0]) if value else 0)
    return np.ndim(value) if hasattr(value, "shape") else 0


def _a(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
