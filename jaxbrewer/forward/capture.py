"""Captures the outputs of a module's submodules by path; the module stays unchanged.

Captured values are part of the forward pass's result: no hook is registered, and nothing is kept
between calls.
"""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from ..configs.module_paths import split_module_path
from ..errors import UsageError

Select = Callable[[str], bool]
"""Whether to capture the output of the submodule at a path, names joined by dots."""

_MARK = "_captured_at"
_NAME = "captured_output"
_lock = threading.RLock()


def call_nnx(
    module: nnx.Module,
    call: Callable[[Any], Any],
    select: Select | None = None,
    sown: Mapping[str, type[nnx.Variable[Any]]] = {},
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """``call(module)``, with what the selected submodules returned and what was sown.

    Args:
        module: A copy that may be changed, such as a merged one: its submodules are marked.
        call: Calls the module.
        select: Which submodules' outputs are captured; ``None`` captures none.
        sown: The variable types whose sown values are returned, by name.

    Returns:
        The result; by path, the output of the last call of each selected submodule; by the names in
        ``sown``, nested dicts of the sown values. Values sown into other types are dropped.
    """
    marked = []
    types: list[type[nnx.Variable[Any]]] = list(dict.fromkeys(sown.values()))
    if select is not None:
        types = list(dict.fromkeys([nnx.Intermediate, *types]))
        for path, submodule in nnx.iter_modules(module):
            name = ".".join(map(str, path))
            if path and select(name) and not isinstance(submodule, nnx.Dict):
                setattr(submodule, _MARK, name)
                marked.append(type(submodule))
    capture: Any = nnx.capture
    with _recording(dict.fromkeys(marked)):
        answer = capture(_with_plain_dicts(call), *types)(module)
    result, *states = answer if types else (answer,)
    values = {kind: nnx.to_pure_dict(state) for kind, state in zip(types, states, strict=True)}
    captured = _by_path(values[nnx.Intermediate], _NAME, select) if select else {}
    return result, captured, {name: values[kind] for name, kind in sown.items()}


def _with_plain_dicts(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``call`` on a module whose ``nnx.Dict``s have no attribute of ``nnx.capture``.

    Every attribute of an ``nnx.Dict`` is one of its items.
    """

    def plain(module: nnx.Module) -> Any:
        for _, submodule in nnx.iter_modules(module):
            if isinstance(submodule, nnx.Dict):
                vars(submodule).pop("__captures__", None)
        return call(module)

    return plain


@contextlib.contextmanager
def _recording(classes: Mapping[type, None]) -> Iterator[None]:
    """Within this context, marked instances of these classes sow their outputs.

    The classes' ``__call__`` is replaced and restored, also after an error, by one thread at a
    time. Instances without a mark are not affected.
    """
    with _lock:
        own = {cls: cls.__dict__.get("__call__") for cls in classes}
        for cls in classes:
            setattr(cls, "__call__", _keeping(cls.__call__))  # noqa: B010
        try:
            yield
        finally:
            for cls, call in own.items():
                if call is None:  # inherited
                    delattr(cls, "__call__")
                else:
                    setattr(cls, "__call__", call)  # noqa: B010


def _keeping(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def kept(self: Any, *args: Any, **keywords: Any) -> Any:
        result = call(self, *args, **keywords)
        if hasattr(self, _MARK) and not getattr(call, "_keeps", False):
            self.sow(nnx.Intermediate, _NAME, result)
        return result

    kept._keeps = True  # type: ignore[attr-defined]
    return kept


def call_linen(
    call: Callable[..., tuple[Any, Mapping[str, Any]]], mutable: list[str], select: Select
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """``call(capture_intermediates=..., mutable=...)`` of ``module.apply``.

    Args:
        call: The module's ``apply`` with all its other arguments.
        mutable: The collections that it may change.
        select: Which submodules.

    Returns:
        The result, the changed collections, and the captured outputs by path.
    """
    called: dict[str, None] = {}

    def wanted(module: nn.Module, method: str) -> bool:
        path = ".".join(module.path)
        return method == "__call__" and bool(path) and select(path)

    def note(next_call: Any, args: Any, keywords: Any, context: Any) -> Any:
        if wanted(context.module, context.method_name):
            called[".".join(context.module.path)] = None
        return next_call(*args, **keywords)

    with nn.intercept_methods(note):
        result, changed = call(capture_intermediates=wanted, mutable=[*mutable, "intermediates"])
    changed = dict(changed)
    captured = _by_path(changed.pop("intermediates", {}), "__call__", select)
    return result, changed, dict.fromkeys(called, NOT_CAPTURED) | captured


@jax.tree_util.register_static
class _NotCaptured:
    """Stands for the output of a module under a lifted transformation that drops it."""


NOT_CAPTURED = _NotCaptured()


def element(address: str, value: Any) -> Any:
    """The one array of a submodule's output that ``address`` names.

    Args:
        address: Its path and steps into what it returns; see
            :func:`~jaxbrewer.configs.module_paths.split_module_path`.
        value: What it returns, or its shapes.

    Returns:
        The array at the end of the steps. If a tuple stands there, its first array; if a dict or a
        dataclass, its only one. Numbers do not count as arrays.

    Raises:
        UsageError: There is none, or the steps lead elsewhere.

    Examples:
        >>> import jax.numpy as jnp
        >>> element("layer", (None, jnp.zeros(2))).shape
        (2,)
        >>> element("layers:1:hidden", ({}, {"hidden": jnp.zeros(3)})).shape
        (3,)
        >>> element("layers[0]", (jnp.zeros((4, 2)), None)).shape
        (2,)
    """
    path, steps = split_module_path(address)
    if value is NOT_CAPTURED:
        raise UsageError(
            f"The module {path!r} runs under nn.scan or another transformation of Linen that drops "
            "what it returns: give the transformation variable_axes={..., 'intermediates': 0}, and "
            f"choose a layer by '{path}[0]'."
        )
    for step in steps:
        if isinstance(step, str):
            entries = dict(_entries(value))
            if step not in entries:
                raise UsageError(
                    f"{address!r}: {step!r} is no entry of what the module returns there, "
                    f"{_described(value)}."
                )
            value = entries[step]
        else:
            value = _at(address, _only_array(address, value), step)
    return _only_array(address, value)


def _at(address: str, array: Any, index: int) -> Any:
    """``array[index]``, also of a shape."""
    if not array.shape or not -array.shape[0] <= index < array.shape[0]:
        raise UsageError(f"{address!r}: {index} is out of range for {_described(array)}.")
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
    return array[index]


def _only_array(address: str, value: Any) -> Any:
    if hasattr(value, "shape"):
        return value
    arrays = {name: entry for name, entry in _entries(value) if getattr(entry, "shape", ())}
    if arrays and (len(arrays) == 1 or isinstance(value, (tuple, list))):
        return next(iter(arrays.values()))
    raise UsageError(
        f"The module {address!r} returns {_described(value)}; a custom match compares one array, "
        f"chosen by '{address}:{next(iter(arrays), 'name')}'."
    )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The named elements of a dict, a dataclass, a namedtuple, a tuple or a list."""
    if isinstance(value, Mapping):
        yield from ((str(name), entry) for name, entry in value.items())
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        yield from zip(names or map(str, range(len(value))), value, strict=True)


def _described(value: Any) -> str:
    """What a value is, in a few words: the shapes of its elements."""
    if hasattr(value, "shape"):
        return f"an array {tuple(value.shape)}"
    entries = [
        f"{name}: {tuple(entry.shape) if hasattr(entry, 'shape') else type(entry).__name__}"
        for name, entry in _entries(value)
    ]
    return f"{type(value).__name__} ({', '.join(entries)})" if entries else type(value).__name__


def _by_path(tree: Any, name: str, select: Select, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        path = f"{prefix}.{key}".strip(".")
        if key == name:
            if prefix and select(prefix):
                found[prefix] = value[-1]
        else:
            found |= _by_path(value, name, select, path)
    return found
