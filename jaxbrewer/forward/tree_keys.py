"""Trees with string keys, as checkpoints see them, and the keys that a library gave them."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from .model import PyTree

Names = tuple[str, ...]
"""A path in a nested dict."""


def named_leaves(tree: PyTree) -> list[tuple[Names, Any]]:
    """Each leaf with the keys of its path as text; the nodes of an ``nnx.State`` have no key."""

    def names(path: Any) -> Names:
        keys = (getattr(key, "key", getattr(key, "idx", None)) for key in path)
        return tuple(str(key) for key in keys if key is not None)

    return [(names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def with_string_keys(tree: PyTree) -> PyTree:
    """``tree`` with every dict and ``nnx.State`` in it as a dict with string keys.

    Examples:
        >>> with_string_keys(({0: 1.0}, {"a": {1: 2.0}}))
        ({'0': 1.0}, {'a': {'1': 2.0}})
    """

    def convert(node: Any) -> Any:
        if isinstance(node, nnx.State):
            node = nnx.to_pure_dict(node)
        if isinstance(node, Mapping):
            return {str(key): with_string_keys(value) for key, value in node.items()}
        return node

    return jax.tree.map(convert, tree, is_leaf=_is_container)


def with_keys_of(template: PyTree, tree: PyTree) -> PyTree:
    """The inverse of :func:`with_string_keys`, for a tree that was made of ``template``.

    Raises:
        KeyError: ``tree`` lacks a key of ``template``.

    Examples:
        >>> with_keys_of({0: 0.0}, {"0": 1.0})
        {0: 1.0}
    """

    def convert(node: Any, plain: Any) -> Any:
        if isinstance(node, nnx.State):
            leaves = dict(named_leaves(plain))
            names = [names for names, _ in named_leaves(node)]
            return jax.tree.unflatten(jax.tree.structure(node), [leaves[n] for n in names])
        if isinstance(node, Mapping):
            return {
                key: with_keys_of(value, plain[key if key in plain else str(key)])
                for key, value in node.items()
            }
        return plain

    return jax.tree.map(convert, template, tree, is_leaf=_is_container)


def _is_container(node: Any) -> bool:
    return isinstance(node, (Mapping, nnx.State))
