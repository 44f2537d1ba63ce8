"""Parameters that a loss does not depend on, found while tracing and skipped by the optimizer.

Where gradients are arrays, a parameter without a gradient looks like one with a gradient of zeros,
and moments, momentum and weight decay keep moving it. PyTorch's optimizers skip such parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..forward.model import PyTree


def skip_absent(
    optimizer: optax.GradientTransformation, present: Mapping[str, PyTree]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that does not change parameters without a gradient, nor their moments.

    Parameters that always get their gradients together form a group. A group has a count of its
    own wherever the optimizer keeps a count beside its moments (Adam's bias correction), as each
    parameter has in PyTorch; counts that stand alone (a learning rate schedule) are common to all.

    Args:
        optimizer: The optimizer of all parameters; it sees the whole tree.
        present: By a name, a tree of bools like the parameters: which of them get a gradient.
            ``update(..., present=names)`` then moves what is present under any of ``names``.

    Examples:
        >>> optimizer = skip_absent(optax.sgd(1.0), {"left": {"a": True, "b": False}})
        >>> params = {"a": jnp.ones(()), "b": jnp.ones(())}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params, present=["left"])
        >>> print(updates["a"], updates["b"])
        -1.0 0.0
    """
    inner = optax.with_extra_args_support(optimizer)
    names = list(present)
    flags = zip(*(jax.tree.leaves(tree) for tree in present.values()), strict=True)
    kind_of = [tuple(each) for each in flags]  # parameter -> the names that it is present under
    kinds = sorted(set(kind_of), reverse=True)
    paths = _paths(next(iter(present.values())))

    def init(params: PyTree) -> PyTree:
        state = inner.init(params)
        own = _own_counts(state, paths)
        counts = [leaf for leaf, is_own in zip(jax.tree.leaves(state), own, strict=True) if is_own]
        return {"optimizer": state, "counts": [list(map(jnp.copy, counts)) for _ in kinds]}

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        present: Sequence[str],
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        chosen = [names.index(name) for name in present]
        gradients, treedef = jax.tree.flatten(updates)
        moved = [jnp.zeros_like(leaf) for leaf in gradients]
        leaves, structure = jax.tree.flatten(state["optimizer"])
        owners, own = _owners(state["optimizer"], paths), _own_counts(state["optimizer"], paths)
        after, counts = list(leaves), list(state["counts"])
        for index, kind in enumerate(kinds):
            if not any(kind[name] for name in chosen):
                continue
            # The whole tree is updated once per group and all but the group is dropped, so XLA
            # does not compute it.
            mine = iter(counts[index])
            before = [
                next(mine) if is_own else leaf for leaf, is_own in zip(leaves, own, strict=True)
            ]
            new_updates, new_state = inner.update(
                updates, jax.tree.unflatten(structure, before), params, **extra
            )
            new = jax.tree.leaves(new_state)
            for number, leaf in enumerate(jax.tree.leaves(new_updates)):
                moved[number] = leaf if kind_of[number] == kind else moved[number]
            for number, owner in enumerate(owners):
                if owner is None or kind_of[owner] == kind:
                    after[number] = new[number]
            counts[index] = [leaf for leaf, is_own in zip(new, own, strict=True) if is_own]
        return jax.tree.unflatten(treedef, moved), {
            "optimizer": jax.tree.unflatten(structure, after),
            "counts": counts,
        }

    return optax.GradientTransformationExtraArgs(init, update)


def _paths(params: PyTree) -> dict[tuple[str, ...], int]:
    """The number of every parameter by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_names(path): number for number, (path, _) in enumerate(leaves)}


def _names(path: Any) -> tuple[str, ...]:
    """The dict keys of a path; an optimizer's own nodes have none."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def _owners(state: PyTree, paths: Mapping[tuple[str, ...], int]) -> list[int | None]:
    """The parameter that each leaf of an optimizer's state belongs to."""

    def owner(names: tuple[str, ...]) -> int | None:
        """By its path, in which a transformation may have put a run of labels of its own."""
        for length in range(len(names)):
            for start in range(len(names) - length):
                found = paths.get(names[:start] + names[start + length :])
                if found is not None:
                    return found
        return None

    return [owner(_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _own_counts(state: PyTree, paths: Mapping[tuple[str, ...], int]) -> list[bool]:
    """Which leaves of a state are counts that stand in one node with a tree of moments."""
    owned = [owner is not None for owner in _owners(state, paths)]

    def mark(node: Any) -> Any:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            moments = [jax.tree.leaves(field) for field in node if isinstance(field, Mapping)]
            beside = any(leaves and all(leaves) for leaves in moments)
            return [beside and not f if isinstance(f, bool) else mark(f) for f in node]
        if isinstance(node, tuple | list):
            return [mark(part) for part in node]
        if isinstance(node, Mapping):
            return {name: mark(part) for name, part in node.items()}
        return jax.tree.map(lambda _: False, node)

    return jax.tree.leaves(mark(jax.tree.unflatten(jax.tree.structure(state), owned)))
