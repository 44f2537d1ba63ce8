"""Haiku: functions of modules become pairs of init and apply, with the key before the inputs."""

import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp

_frame = []


class Transformed(NamedTuple):
    init: object
    apply: object


@contextlib.contextmanager
def _running(params, rng):
    _frame.append((params, rng))
    try:
        yield
    finally:
        _frame.pop()


def transform(function):
    def init(rng, *args):
        params = {}
        with _running(params, rng):
            function(*args)
        return params

    def apply(params, rng, *args, **kwargs):
        with _running(params, None):
            return function(*args, **kwargs)

    return Transformed(init, apply)


class nets:
    class MLP:
        def __init__(self, sizes, activation=jax.nn.relu):
            self.sizes, self.activation = sizes, activation

        def __call__(self, x):
            params, rng = _frame[-1]
            for index, size in enumerate(self.sizes):
                name = f"mlp/~/linear_{index}"
                if rng is not None:
                    w = jax.random.normal(jax.random.fold_in(rng, index), (x.shape[-1], size))
                    params[name] = {"w": w, "b": jnp.zeros(size)}
                x = x @ params[name]["w"] + params[name]["b"][None]
                x = self.activation(x) if index < len(self.sizes) - 1 else x
            return x
