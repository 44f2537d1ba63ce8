"""Equinox: modules are pytrees of arrays and of anything else, for one example."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _MLP:
    weights: list
    activation: Any

    def __call__(self, x):
        assert x.ndim == 1  # one example
        for weight in self.weights[:-1]:
            x = self.activation(weight @ x)
        return self.weights[-1] @ x


class nn:
    def MLP(in_size, out_size, width_size, depth, *, key):
        sizes = [in_size, *[width_size] * depth, out_size]
        keys = jax.random.split(key, depth + 1)
        shapes = zip(keys, sizes[1:], sizes[:-1], strict=True)
        return _MLP([jax.random.normal(key, (m, n)) for key, m, n in shapes], jnp.tanh)


def is_inexact_array(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def partition(tree, is_kept):
    def part(wanted):
        return jax.tree.map(lambda leaf: leaf if is_kept(leaf) is wanted else None, tree)

    return part(True), part(False)


def combine(first, second):
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None
    )
