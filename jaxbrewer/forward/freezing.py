"""Weights that a training leaves as they are."""

import dataclasses
import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from ..errors import UsageError, suggest
from .as_model import as_model
from .model import Apply, Batch, Model, PyTree

Filter: TypeAlias = str | type
"""A path or glob of parameters, or the class of the NNX variables that hold them."""

_Path = tuple[str, ...]


def freeze(model: Any, *filters: Filter) -> Model:
    """A model that keeps some of its weights as they are.

    They move from ``params`` to ``state["frozen"]``: no gradient is computed for them, no norm
    counts them and no optimizer keeps moments of them.

    Args:
        model: Any model that :func:`as_model` takes.
        *filters: Which weights. A string matches parameter paths, names joined by dots, at their
            beginning (``"bert.embeddings"``), and may be a glob (``"layers.[01].*"``,
            ``"*.bias"``), in which ``*`` also matches dots. A class matches the variables of an NNX
            module of that class (``nnx.LoRAParam``).

    Raises:
        UsageError: A filter matches no weights.

    Examples:
        >>> params = {"embed": {"w": 1.0}, "head": {"w": 1.0}}
        >>> frozen = freeze((lambda params, x: x, params), "embed")
        >>> list(frozen.params), list(frozen.state["frozen"])
        (['head'], ['embed'])
    """
    model = as_model(model)
    if not filters:
        return model
    return _frozen(model, _matching(model, filters, "freeze"))


def train_only(model: Any, *filters: Filter) -> Model:
    """A model that moves some of its weights and keeps all others as they are.

    Args:
        model: Any model that :func:`as_model` takes.
        *filters: Which weights move, as in :func:`freeze`.

    Raises:
        UsageError: A filter matches no weights.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> lora = nnx.LoRALinear(2, 3, lora_rank=1, rngs=nnx.Rngs(0))
        >>> sorted(train_only(lora, nnx.LoRAParam).params["lora"])
        ['lora_a', 'lora_b']
    """
    model = as_model(model)
    if not filters:
        raise UsageError("train_only() needs a path, a glob or a class of the weights that move.")
    moving = _matching(model, filters, "train")
    return _frozen(model, set(_leaf_paths(model.params)) - moving)


def require_floating(params: PyTree) -> None:
    """Checks that an optimizer can move a student's parameters.

    Raises:
        UsageError: One of them is not of a floating-point dtype.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UsageError(
                f"The student's parameter {name!r} is {jnp.result_type(leaf)}, which has no "
                f"gradient: jaxbrewer.freeze(student, {name!r})."
            )


def warn_of_moving_lora_base(model: Model) -> None:
    """Warns if a student has LoRA parameters and nothing in it is frozen."""
    is_lora = [issubclass(kind, nnx.LoRAParam) for kind in model.variable_types.values()]
    if any(is_lora) and not all(is_lora) and "frozen" not in model.state:
        warnings.warn(
            "The student has LoRA parameters, but all its weights move: "
            "jaxbrewer.train_only(student, nnx.LoRAParam) moves the LoRA parameters alone.",
            stacklevel=3,
        )


def _frozen(model: Model, frozen: set[_Path]) -> Model:
    """``model`` with the weights at these paths in its state."""
    paths = _leaf_paths(model.params)
    treedef = jax.tree.structure(model.params)
    weights = dict(zip(paths, jax.tree.leaves(model.params), strict=True))

    def merge(free: PyTree, kept: PyTree) -> PyTree:
        leaves = [_get(kept if path in frozen else free, path) for path in paths]
        return jax.tree.unflatten(treedef, leaves)

    def frozen_form(inner: Apply) -> Apply:
        def apply(
            params: PyTree, state: PyTree, batch: Batch, **keywords: Any
        ) -> tuple[Any, PyTree]:
            whole = merge(params, state["frozen"])
            outputs, own = inner(whole, state["model"], batch, **keywords)
            return outputs, {"frozen": state["frozen"], "model": own}

        return apply

    capturing = model.capturing

    def back(function: Callable[[PyTree, PyTree], Any]) -> Callable[[PyTree, PyTree], Any]:
        return lambda params, state: function(merge(params, state["frozen"]), state["model"])

    kept = _nested({path: leaf for path, leaf in weights.items() if path in frozen})
    return dataclasses.replace(
        model,
        apply=frozen_form(model.apply),
        capturing=capturing and (lambda select: frozen_form(capturing(select))),
        params=_nested({path: leaf for path, leaf in weights.items() if path not in frozen}),
        state={"frozen": kept, "model": model.state},
        export=back(model.export),
        write_back=back(model.write_back),
    )


def _matching(model: Model, filters: Sequence[Filter], verb: str) -> set[_Path]:
    """The paths of the parameters that any of ``filters`` matches."""
    paths, matched = _leaf_paths(model.params), set()
    for each in filters:
        found = {path for path in paths if _matches(each, path, model.variable_types)}
        if not found and isinstance(each, str):
            parts = dict.fromkeys(
                path[:depth] for path in paths for depth in range(1, len(path) + 1)
            )
            short = [".".join(part) for part in parts if len(part) <= 2]
            every = suggest(each, short, not_listed=map(".".join, parts))
            raise UsageError(f"No weights to {verb} under {each!r}: {every}")
        if not found:
            kinds = dict.fromkeys(kind.__name__ for kind in model.variable_types.values())
            raise UsageError(
                f"No weights to {verb} of class {getattr(each, '__name__', each)}: "
                f"{suggest(each, kinds) if kinds else 'only NNX modules have classes of weights.'}"
            )
        matched |= found
    return matched


def _matches(pattern: Filter, path: _Path, variable_types: Mapping[str, type]) -> bool:
    if isinstance(pattern, str):
        prefixes = (".".join(path[:depth]) for depth in range(1, len(path) + 1))
        return any(prefix == pattern or fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes)
    if not isinstance(pattern, type):
        raise UsageError(
            f"Weights are chosen by paths, globs or classes, got {type(pattern).__name__}."
        )
    return issubclass(variable_types.get(".".join(path), object), pattern)


def _leaf_paths(tree: PyTree) -> list[_Path]:
    """The path of every leaf, in the order of ``jax.tree.leaves``; any pytree has one."""
    return [
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _get(tree: PyTree, path: _Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _nested(leaves: Mapping[_Path, Any]) -> dict[str, Any]:
    """Nested dicts with these leaves."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree
