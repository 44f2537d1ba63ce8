"""Where a step's time goes: products of a layer as shares of a large one, and all that is none."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer import models
from jaxbrewer.models import flat_dot_general
from jaxbrewer.models.layers import LayerNorm, attend, gelu, padding_bias

from ..common import TOY, Row, Sizes, alternate, batch_of, bert, forward_program, ratio, repeated

BATCH, LENGTH, HEAD = 16, 64, 32
PRODUCT = 2048


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Products and parts of a layer of width 384, on 16 texts of 64 tokens."""
    width, product, rounds = (64, 64, 2) if is_toy else (384, PRODUCT, 9)
    sizes = Sizes(rounds=rounds, steps=1 if is_toy else 4)
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def random(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape)

    square = random(product, product)
    runs = {"product": _repeated(jnp.matmul, square, square)}
    flops: dict[str, float] = {}
    for inputs, outputs in ((width, width), (width, 4 * width), (4 * width, width)):
        for name, (function, factor) in _PRODUCTS.items():
            arguments = (
                random(BATCH, LENGTH, inputs), random(inputs, outputs),
                random(BATCH, LENGTH, outputs),
            )  # fmt: skip
            label = f"{inputs} x {outputs}, {name}"
            runs[label] = _repeated(function, *arguments)
            flops[label] = factor * 2.0 * BATCH * LENGTH * inputs * outputs
    parts = dict(_parts(width, random))
    clocks = alternate({**runs, **parts}, sizes)
    peaks = 2.0 * product**3 / np.array(clocks["product"].seconds)
    for label, count in flops.items():
        shares = 100 * count / np.array(clocks[label].seconds) / peaks
        low, share, high = np.quantile(shares, [0.25, 0.5, 0.75])
        yield Row(
            "parts", label, float(share), "% of the product", f"quartiles {low:.0f} to {high:.0f}"
        )
    for label in parts:
        yield Row("parts", label, 1e3 * clocks[label].median, "ms", clocks[label].quartiles())
    yield from _forms_of_attention(is_toy)


def _forms_of_attention(is_toy: bool) -> Iterator[Row]:
    """The forward pass of a teacher by another form of the same attention, over ours."""
    sizes = TOY if is_toy else Sizes(
        teacher_layers=6, width=384, vocabulary=8192, batches=((16, 128), (8, 256)), rounds=15,
        steps=1,
    )  # fmt: skip
    teacher = jb.as_model(bert(sizes.teacher_layers, sizes, 0))
    for batch, length in sizes.batches:
        data = jax.device_put(batch_of(sizes, batch, length))
        ours, other = (
            repeated(forward_program(teacher, data), teacher.variables) for _ in range(2)
        )
        with mock.patch.object(models.bert, "attend", attend_with_positions_first):
            jax.block_until_ready(other(1))
        clocks = alternate({"ours": ours, "other": other}, sizes)
        yield ratio("parts", f"forward pass of {batch} x {length}, positions first / heads first",
                    clocks["other"], clocks["ours"])  # fmt: skip


def attend_with_positions_first(query: Any, key: Any, value: Any, bias: Any, dropout: Any) -> Any:
    """``attend`` without transposed values, and with the softmax of JAX."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5 + bias
    probabilities = jax.nn.softmax(scores)
    context = jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)
    return context.reshape(query.shape[0] * query.shape[1], -1), scores, probabilities


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _with(dot_general: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of a dense map of inputs with three axes."""
    numbers = (((2,), (0,)), ((), ()))

    def gradients(x: Any, weights: Any, gradient: Any) -> Any:
        return jax.vjp(lambda x, w: dot_general(x, w, numbers), x, weights)[1](gradient)

    return gradients


_PRODUCTS: dict[str, tuple[Callable[..., Any], int]] = {
    "forward": (lambda x, w, g: _rows(x) @ w, 1),
    "gradient of inputs": (lambda x, w, g: _rows(g) @ w.T, 1),
    "gradient of weights": (lambda x, w, g: _rows(x).T @ _rows(g), 1),
    "gradient of weights, inputs transposed before": (
        lambda x, w, g: jax.lax.optimization_barrier(_rows(x).T) @ _rows(g), 1
    ),
    "both gradients, three axes": (_with(jax.lax.dot_general), 2),
    "both gradients, flat_dot_general": (_with(flat_dot_general), 2),
}  # fmt: skip
"""A function of inputs, weights and the outputs' gradient, and its number of products."""


def _parts(width: int, random: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Forward and backward of what is no product of tokens with weights."""
    tokens = BATCH * LENGTH
    norm = LayerNorm(width, 1e-12, nnx.Rngs(0))
    dropout = nnx.Dropout(0.0, deterministic=True)
    bias = padding_bias(None, jnp.ones((BATCH, LENGTH), jnp.int32))

    def attention(*vectors: Any) -> Any:
        heads = (x.reshape(BATCH, LENGTH, width // HEAD, HEAD) for x in vectors)
        return attend(*heads, bias, dropout)[0]

    for name, function, shape, count in (
        ("layer norm with a residual", lambda x, y: norm(x + y), (tokens, width), 2),
        ("GELU", gelu, (tokens, 4 * width), 1),
        ("attention", attention, (tokens, width), 3),
    ):
        arguments = [random(*shape) for _ in range(count)]
        yield f"{name}, forward", _repeated(function, *arguments)
        gradient = random(*shape)
        yield f"{name}, forward and backward", _repeated(_backward(function), gradient, *arguments)
    sizes = Sizes(width=width, heads=width // HEAD, vocabulary=8192)
    weights = nnx.to_pure_dict(nnx.split(bert(3, sizes, 0), nnx.Param, ...)[1])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))

    def step(state: Any, weights: Any) -> Any:
        updates, state = optimizer.update(weights, state, weights)
        return optax.apply_updates(weights, updates), state

    count = sum(leaf.size for leaf in jax.tree.leaves(weights)) / 1e6
    yield (
        f"clipping and AdamW, {count:.1f} M weights",
        _repeated(step, optimizer.init(weights), weights),
    )


def _backward(function: Callable[..., Any]) -> Callable[..., Any]:
    def both(gradient: Any, *arguments: Any) -> Any:
        result, transposed = jax.vjp(function, *arguments)
        return result, transposed(gradient)

    return both


def _repeated(function: Callable[..., Any], *arguments: Any) -> Any:
    return repeated(jax.jit(function), *arguments)
