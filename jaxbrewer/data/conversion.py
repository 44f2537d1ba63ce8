"""Tensors, tables, records and nested lists of any library as a pytree of arrays."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UsageError

_TEXT = (str, bytes)
_ARRAYS = (np.ndarray, jax.Array)
_TOO_LONG = {np.dtype(kind) for kind in (np.longdouble, np.clongdouble)} - {
    np.dtype(kind) for kind in (np.float64, np.complex128)
}
"""Dtypes that JAX does not have."""


def as_arrays(batch: Any) -> Any:
    """Turns the tensors, numbers and lists of numbers of a batch into NumPy or JAX arrays.

    Mappings become dicts, tables dicts of their columns. Named tuples, dataclasses and other
    pytrees keep their type; a dataclass (and a dict that is one, as ``ModelOutput`` of Hugging
    Face) is registered with JAX if it is not yet. Lists of numbers become one array, other lists a
    tuple.

    Raises:
        UsageError: An entry holds text, other objects, or lists of different lengths; the message
            names it.

    Examples:
        >>> as_arrays({"ids": [[1, 2]], "pair": (1.5, np.zeros(2))})
        {'ids': array([[1, 2]]), 'pair': (array(1.5), array([0., 0.]))}
        >>> as_arrays({"text": ["a", "b"]})
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: The batch entry 'text' holds str, not numbers: leave it out...
    """
    return _converted(as_pytree(batch), "", _array)


def as_pytree(batch: Any) -> Any:
    """``batch`` with containers that JAX can take apart, and its leaves unchanged."""
    if isinstance(batch, _ARRAYS):
        return batch
    if _is_table(batch):
        return {str(name): batch[name].to_numpy() for name in batch.columns}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return [*map(as_pytree, batch)] if isinstance(batch, list) else (*map(as_pytree, batch),)
    is_record = dataclasses.is_dataclass(batch) and not isinstance(batch, type)
    if isinstance(batch, Mapping) and not (is_record and isinstance(batch, dict)):
        return {key: as_pytree(value) for key, value in batch.items()}
    if batch is None or (_is_leaf(batch) and not is_record):
        return batch
    if is_record:
        _register(type(batch), batch)
    return _mapped(batch, lambda value, _: as_pytree(value))


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor of any library as a NumPy array; bfloat16 and float8 keep their dtype."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()  # a PyTorch tensor
    try:
        return np.asarray(tensor)
    except TypeError:  # NumPy has no such dtype
        return np.asarray(tensor.float()).astype(jnp.dtype(str(tensor.dtype).rpartition(".")[2]))


def _converted(value: Any, path: str, convert: Callable[[Any, str], Any]) -> Any:
    """Arrays for the leaves of a pytree, lists of numbers among them."""
    if isinstance(value, _ARRAYS):
        return convert(value, path)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        if _is_numbers(value):
            return convert(value, path)
        if isinstance(value, list) and value and isinstance(value[0], _TEXT):
            return convert(value[0], path)
        if any(item is None for item in value) and any(map(_is_numbers, value)):
            return convert(np.asarray(value, object), path)
        return tuple(_converted(item, f"{path}[{i}]", convert) for i, item in enumerate(value))
    if value is None or _is_leaf(value):
        return None if value is None else convert(value, path)

    def child(item: Any, name: Any) -> Any:
        return _converted(item, f"{path}.{name}".strip("."), convert)

    if type(value) is dict:  # in its own order, which JAX would sort
        return {name: child(item, name) for name, item in value.items()}
    return _mapped(value, child)


def _mapped(node: Any, function: Callable[[Any, str], Any]) -> Any:
    """The same pytree node with ``function(child, name)`` for each of its children."""
    children, treedef = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )
    return jax.tree.unflatten(
        treedef,
        [function(child, jax.tree_util.keystr(path, simple=True)) for path, child in children],
    )


def _array(value: Any, path: str) -> Any:
    entry = f"The batch entry {path!r}" if path else "The batch"
    try:
        is_array = isinstance(value, _ARRAYS) and value.dtype != object
        array = value if is_array else _numbers(value)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, ValueError) and "inhomogeneous" in str(error):
            raise UsageError(
                f"{entry} holds lists or arrays of different lengths: pad them to one length."
            ) from None
        raise UsageError(
            f"{entry} holds {type(value).__name__}, which does not convert to an array: "
            f"{' '.join(str(error).split())}"
        ) from None
    if isinstance(array, np.ma.MaskedArray):
        raise UsageError(f"{entry} is a masked array, whose mask JAX ignores: give .filled(value).")
    if array.dtype in _TOO_LONG:
        raise UsageError(f"{entry} is {array.dtype}, which JAX does not have: convert it.")
    if jnp.issubdtype(array.dtype, jnp.number):
        return array
    if array.dtype == bool:
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    raise UsageError(
        f"{entry} holds {_contents(array)}, not numbers: leave it out, or turn it into "
        "arrays in batch_postprocessor."
    )


def _numbers(value: Any) -> np.ndarray:
    """A tensor, a number or nested lists of numbers as an array, never one of objects."""
    array = np.asarray(_plain(value)) if isinstance(value, (list, tuple)) else to_numpy(value)
    return np.array(array.tolist()) if array.dtype == object and array.ndim else array


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return to_numpy(value)[()] if hasattr(value, "detach") else value


def _contents(array: Any) -> str:
    """The type of what an array holds, for messages."""
    if array.dtype == object:
        kinds = [type(item) for item in array.reshape(-1) if not isinstance(item, (int, float))]
        return "None" if type(None) in kinds else (*(k.__name__ for k in kinds), "object")[0]
    if array.dtype.kind in "US":
        return "str" if array.dtype.kind == "U" else "bytes"
    return str(array.dtype.name)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return bool(value) and all(map(_is_numbers, value))
    if isinstance(value, (int, float, complex, np.number, np.bool_)):
        return True
    return hasattr(value, "__array__") and np.shape(value) == () and not isinstance(value, _TEXT)


def _is_leaf(value: Any) -> bool:
    return jax.tree_util.all_leaves([value])


def _is_table(value: Any) -> bool:
    """Whether ``value`` is a data frame (pandas, Polars)."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def _register(cls: Any, value: Any) -> None:
    """Registers a dataclass, or a mapping that is one, as a pytree."""
    if not _is_leaf(value):
        return
    if issubclass(cls, dict):
        jax.tree_util.register_pytree_with_keys(cls, _flatten_mapping, _unflattener(cls))
        return
    names = [field.name for field in dataclasses.fields(cls)]

    def flatten(record: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(record, name)) for name in names], None

    def unflatten(_: None, children: Any) -> Any:
        record = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(record, name, child)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


def _flatten_mapping(mapping: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    keys = tuple(mapping)
    return [(jax.tree_util.DictKey(key), mapping[key]) for key in keys], keys


def _unflattener(cls: Any) -> Callable[[Any, Any], Any]:
    """Rebuilds a mapping whose entries are also attributes, without its constructor's checks."""
    names = [field.name for field in dataclasses.fields(cls)]
    base: Any = OrderedDict if issubclass(cls, OrderedDict) else dict

    def unflatten(keys: tuple[Any, ...], children: Any) -> Any:
        record = cls.__new__(cls)
        for name in names:
            object.__setattr__(record, name, None)
        for key, child in zip(keys, children, strict=True):
            base.__setitem__(record, key, child)
            object.__setattr__(record, key, child)
        return record

    return unflatten
