"""Parameters that a loss does not depend on: found while tracing, and left alone by the optimizer.

Where gradients are arrays, a parameter without a gradient looks like one with a gradient of zeros,
and moments, momentum and weight decay go on moving it. PyTorch's optimizers skip such parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval

from .functional import PyTree


def depends_on(function: Callable[..., Any], tree: PyTree, *args: Any) -> PyTree:
    """Which leaves of ``tree`` the result of ``function(tree, *args)`` is computed from.

    The function is traced on shapes; nothing is computed. A leaf counts if an operation on it
    reaches the result, even if the gradient happens to be 0 (``0 * x``) or is stopped on the way.

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


def skip_absent(
    optimizer: optax.GradientTransformation, present: Mapping[str, PyTree]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that leaves parameters without a gradient, and their moments, as they are.

    Parameters that always get their gradients together form a group. A group has a count of its
    own wherever the optimizer keeps a count beside its moments (Adam's bias correction), as each
    parameter has in PyTorch; counts that stand alone (a learning rate schedule) are common to all.

    Args:
        optimizer: The optimizer of all parameters; it sees the whole tree.
        present: By a name, a tree of bools like the parameters: which of them get a gradient.
            ``update(..., present=names)`` then moves what is present under any of ``names``.

    Examples:
        >>> rule = skip_absent(optax.sgd(1.0), {"left": {"a": True, "b": False}})
        >>> params = {"a": jnp.ones(()), "b": jnp.ones(())}
        >>> updates, _ = rule.update(params, rule.init(params), params, present=["left"])
        >>> print(updates["a"], updates["b"])
        -1.0 0.0
    """
    rule = optax.with_extra_args_support(optimizer)
    trees = list(present.values())
    names = list(present)
    signatures = jax.tree.map(lambda *flags: tuple(flags), *trees)  # leaf -> where it is present
    kinds = sorted(set(jax.tree.leaves(signatures, is_leaf=_is_signature)), reverse=True)

    def init(params: PyTree) -> PyTree:
        state = rule.init(params)
        counts = _own_counts(rule, state)
        return {"optimizer": state, "counts": [counts for _ in kinds]}

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        present: Sequence[str],
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        chosen = {names.index(name) for name in present}
        inner, counts = state["optimizer"], list(state["counts"])
        moved = jax.tree.map(jnp.zeros_like, updates)
        after = inner
        for index, kind in enumerate(kinds):
            if not any(kind[name] for name in chosen):
                continue
            # The whole tree is updated once per group, and all but the group is dropped, which
            # XLA then does not compute.
            ours = jax.tree.map(lambda s, k=kind: s == k, signatures, is_leaf=_is_signature)
            mine = _with_counts(rule, inner, counts[index])
            new_updates, new = rule.update(updates, mine, params, **extra)
            moved = jax.tree.map(lambda o, n, m: n if o else m, ours, new_updates, moved)
            is_ours = optax.tree.map_params(
                rule,
                lambda x, o: x if _is_masked(x) else o,
                inner,
                ours,
                transform_non_params=lambda _: True,
                is_leaf=_is_masked,
            )
            after = jax.tree.map(lambda o, n, a: n if o else a, is_ours, new, after)
            counts[index] = _own_counts(rule, new)
        return moved, {"optimizer": after, "counts": counts}

    return optax.GradientTransformationExtraArgs(init, update)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _is_signature(node: Any) -> bool:
    return isinstance(node, tuple)


def _own_counts(rule: Any, state: PyTree) -> list[jax.Array]:
    """The arrays that stand in a state's node beside a tree of moments."""
    leaves, beside = _beside_moments(rule, state)
    return [leaf for leaf, own in zip(leaves, beside, strict=True) if own]


def _with_counts(rule: Any, state: PyTree, counts: list[jax.Array]) -> PyTree:
    leaves, beside = _beside_moments(rule, state)
    own = iter(counts)
    replaced = [next(own) if flag else leaf for leaf, flag in zip(leaves, beside, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(state), replaced)


def _beside_moments(rule: Any, state: PyTree) -> tuple[list[jax.Array], list[bool]]:
    """The leaves of an optimizer state, and which of them are counts of their moments."""
    marked = optax.tree.map_params(
        rule, lambda _: True, state, transform_non_params=lambda _: False
    )

    def mark(node: Any) -> Any:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            has_moments = any(
                isinstance(field, Mapping) and any(jax.tree.leaves(field))
                and all(jax.tree.leaves(field))
                for field in node
            )
            return type(node)(
                *(has_moments and not f if isinstance(f, bool) else mark(f) for f in node)
            )
        if isinstance(node, tuple | list):
            return type(node)(map(mark, node))
        if isinstance(node, Mapping):
            return {name: mark(value) for name, value in node.items()}
        return False if isinstance(node, bool) else jax.tree.map(lambda _: False, node)

    return jax.tree.leaves(state), jax.tree.leaves(mark(marked))
