"""Weights that a training leaves as they are."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UsageError, suggest
from .as_model import as_model
from .model import Apply, Batch, Model, PyTree


def freeze(model: Any, *paths: str) -> Model:
    """A model that keeps the weights under ``paths`` as they are.

    They move from ``params`` to ``state["frozen"]``: no gradient is computed for them, no norm
    counts them and no optimizer keeps moments of them.

    Args:
        model: Any model that :func:`as_model` takes.
        *paths: Beginnings of parameter paths, names joined by dots: ``"bert.embeddings"``.

    Raises:
        UsageError: A path is the beginning of none.

    Examples:
        >>> params = {"embed": {"w": 1.0}, "head": {"w": 1.0}}
        >>> frozen = freeze((lambda params, x: x, params), "embed")
        >>> list(frozen.params), list(frozen.state["frozen"])
        (['head'], ['embed'])
    """
    model = as_model(model)
    if not paths:
        return model
    for path in paths:
        if not _split(model.params, (path,))[1]:
            known = [".".join(prefix) for prefix in _prefixes(model.params)]
            raise UsageError(f"No weights to freeze under {path!r}: {suggest(path, known)}")
    free, frozen = _split(model.params, paths)

    def frozen_form(inner: Apply) -> Apply:
        def apply(
            params: PyTree, state: PyTree, batch: Batch, **keywords: Any
        ) -> tuple[Any, PyTree]:
            whole = _merge(params, state["frozen"])
            outputs, own = inner(whole, state["model"], batch, **keywords)
            return outputs, {"frozen": state["frozen"], "model": own}

        return apply

    capturing = model.capturing

    def back(function: Callable[[PyTree, PyTree], Any]) -> Callable[[PyTree, PyTree], Any]:
        return lambda params, state: function(_merge(params, state["frozen"]), state["model"])

    return dataclasses.replace(
        model,
        apply=frozen_form(model.apply),
        capturing=capturing and (lambda select: frozen_form(capturing(select))),
        params=free,
        state={"frozen": frozen, "model": model.state},
        export=back(model.export),
        write_back=back(model.write_back),
    )


def _split(tree: PyTree, paths: tuple[str, ...], prefix: str = "") -> tuple[PyTree, PyTree]:
    """What is not under any of ``paths``, and what is."""
    outside: dict[str, Any] = {}
    inside: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if any(path == start or path.startswith(f"{start}.") for start in paths):
            inside[name] = value
        elif isinstance(value, Mapping):
            rest, found = _split(value, paths, f"{path}.")
            outside |= {name: rest} if rest or not found else {}
            inside |= {name: found} if found else {}
        else:
            outside[name] = value
    return outside, inside


def _merge(first: PyTree, second: PyTree) -> PyTree:
    """Two nested dicts without a common leaf as one."""
    merged = dict(first)
    for name, value in second.items():
        merged[name] = _merge(merged[name], value) if name in merged else value
    return merged


def _prefixes(tree: PyTree, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The inner nodes of a nested dict, two levels deep."""
    found = []
    for name, value in tree.items():
        found.append((*prefix, name))
        if isinstance(value, Mapping) and len(prefix) == 0:
            found += _prefixes(value, (*prefix, name))
    return found
