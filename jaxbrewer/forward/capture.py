"""Outputs of a module's submodules, by path, without touching the module.

Captured values leave the forward pass as part of its result, so nothing is registered that would
have to be removed, and nothing is kept from one call to the next.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from ..errors import UsageError

Select = Callable[[str], bool]
"""Whether the output of the submodule at a path (names joined by dots) is wanted."""

_MARK = "_captured_at"
_NAME = "captured_output"
_lock = threading.RLock()


def call_nnx(
    module: nnx.Module, call: Callable[[Any], Any], select: Select
) -> tuple[Any, dict[str, Any]]:
    """``call(module)``, and what the selected submodules returned in it.

    Args:
        module: A module of the caller's own, such as a merged copy: it is marked.
        call: Calls it.
        select: Says which.

    Returns:
        The result and, by path, the output of the last call of each submodule.
    """
    marked = []
    for path, submodule in nnx.iter_modules(module):
        name = ".".join(map(str, path))
        if path and select(name):
            setattr(submodule, _MARK, name)
            marked.append(type(submodule))
    with _recording(dict.fromkeys(marked)):
        result, state = nnx.capture(call, nnx.Intermediate)(module)
    return result, _by_path(nnx.to_pure_dict(state), _NAME, select)


@contextlib.contextmanager
def _recording(classes: Mapping[type, None]) -> Iterator[None]:
    """While a forward pass is traced, marked instances of these classes keep their outputs.

    The classes' ``__call__`` is replaced for that time and put back, also after an error; one
    thread at a time, and instances without a mark notice nothing.
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
        select: Says which submodules.

    Returns:
        The result, the changed collections, and the captured outputs by path.
    """

    def wanted(module: nn.Module, method: str) -> bool:
        path = ".".join(module.path)
        return method == "__call__" and bool(path) and select(path)

    result, changed = call(capture_intermediates=wanted, mutable=[*mutable, "intermediates"])
    changed = dict(changed)
    captured = _by_path(changed.pop("intermediates", {}), "__call__", select)
    return result, changed, captured


def first_array(path: str, value: Any) -> jax.Array:
    """The one array of a submodule's output: itself, or the first of a tuple or list.

    Raises:
        UsageError: There is none.
    """
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not hasattr(value, "shape"):
        raise UsageError(
            f"The module {path!r} returns {type(value).__name__}; a custom match needs an array, "
            "or a tuple that begins with one."
        )
    return value


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
