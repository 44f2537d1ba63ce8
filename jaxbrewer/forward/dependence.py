"""Which inputs the result of a function is computed from, read off its jaxpr."""

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval

PyTree = Any


def depends_on(function: Callable[..., Any], tree: PyTree, *args: Any) -> PyTree:
    """Finds the leaves of ``tree`` from which ``function(tree, *args)`` is computed.

    The function is only traced. A leaf counts if an operation on it reaches the result, even if the
    gradient happens to be 0 (``0 * x``) or is stopped on the way.

    Args:
        function: Any function that JAX can trace.
        tree: Arrays or their shapes.
        *args: Likewise.

    Returns:
        Bools in the structure of ``tree``.

    Examples:
        >>> depends_on(lambda params: 2 * params["a"], {"a": 1.0, "b": 1.0})
        {'a': True, 'b': False}
    """
    leaves, treedef = jax.tree.flatten(tree)
    jaxpr = jax.make_jaxpr(function)(tree, *args).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return jax.tree.unflatten(treedef, used[: len(leaves)])
