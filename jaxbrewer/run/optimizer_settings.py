"""The values that a function closes over, such as an optimizer's learning rate, as plain data."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

MANY = 16
"""Longer containers are described by a digest."""


def closure_settings(function: Callable[..., Any]) -> dict[str, Any]:
    """The values that ``function`` and the functions it closes over close over, by path.

    An optax transformation keeps no settings; its closures are the only record of how it was made.
    The same arguments give the same settings in every process, and others differ in some entry.

    Examples:
        >>> import optax
        >>> settings = closure_settings(optax.sgd(0.1).update)
        >>> [value for path, value in settings.items() if path.endswith("step_size")]
        [-0.1]
    """
    return dict(_walk(function, "", frozenset()))


def _walk(value: Any, path: str, above: frozenset[int]) -> Iterator[tuple[str, Any]]:
    if id(value) in above:
        return
    above |= {id(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        yield path, value
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        yield path, _digest(np.asarray(value).tolist())
    elif isinstance(value, functools.partial):
        yield from _walk((value.func, value.args, value.keywords), path, above)
    elif isinstance(value, (Mapping, list, tuple)):
        items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        inner = [
            pair for name, item in items for pair in _walk(item, f"{path}.{name}".strip("."), above)
        ]
        yield from inner if len(items) <= MANY else [(path, _digest(inner))]
    elif hasattr(value, "__code__"):
        if path:
            yield path, value.__qualname__
        names = value.__code__.co_freevars
        for name, cell in zip(names, value.__closure__ or (), strict=True):
            yield from _walk(cell.cell_contents, f"{path}.{name}".strip("."), above)
        for index, default in enumerate(value.__defaults__ or ()):
            yield from _walk(default, f"{path}.default{index}".strip("."), above)
    else:
        yield path, type(value).__qualname__
        if callable(value) and not isinstance(value, type):
            yield from _walk(getattr(value, "__dict__", {}), path, above)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()[:16]
