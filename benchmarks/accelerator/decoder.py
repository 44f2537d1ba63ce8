"""A plain decoder of Llama's shape: RMS norms, rotary positions, grouped heads, gated layers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with tied embeddings."""

    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    vocabulary: int

    def flops(self, batch: int, length: int) -> float:
        """FLOPs of the products of a forward pass, with the causal half of attention."""
        kept = self.width // self.heads * self.groups
        layer = 4 * self.width**2 + 4 * self.width * kept + 6 * self.width * self.inner
        layer += 2 * length * self.width
        return batch * length * float(self.layers * layer + 2 * self.width * self.vocabulary)


def init(shape: Shape, key: jax.Array) -> dict[str, Any]:
    """Random float32 weights; those of all layers lie along a first axis."""
    kept = shape.width // shape.heads * shape.groups
    sizes = {
        "query": (shape.width, shape.width), "key": (shape.width, kept),
        "value": (shape.width, kept), "out": (shape.width, shape.width),
        "gate": (shape.width, shape.inner), "up": (shape.width, shape.inner),
        "down": (shape.inner, shape.width),
    }  # fmt: skip
    keys = dict(zip([*sizes, "table"], jax.random.split(key, len(sizes) + 1), strict=True))
    layers = {
        name: jax.random.normal(keys[name], (shape.layers, *size)) * size[0] ** -0.5
        for name, size in sizes.items()
    }
    norms = {name: jnp.ones((shape.layers, shape.width)) for name in ("norm_1", "norm_2")}
    table = jax.random.normal(keys["table"], (shape.vocabulary, shape.width)) * 0.02
    return {"layers": {**layers, **norms}, "norm": jnp.ones(shape.width), "table": table}


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """``x`` over its root mean square, in float32."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-5)
    return (wide * scale).astype(x.dtype)


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions."""
    length, half = x.shape[1], x.shape[-1] // 2
    angles = jnp.arange(length)[:, None] * 5e5 ** -(jnp.arange(half)[None] / half)
    sin, cos = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.sin, jnp.cos))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def apply(shape: Shape, weights: dict[str, Any], ids: jax.Array) -> jax.Array:
    """Logits in bfloat16 products; each layer is computed again in the backward pass."""
    batch, length = ids.shape
    implementation = "cudnn" if jax.default_backend() == "gpu" else "xla"

    @jax.checkpoint
    def layer(x: jax.Array, own: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        own = {
            name: value if "norm" in name else value.astype(x.dtype) for name, value in own.items()
        }
        h = rms_norm(x, own["norm_1"])
        query, key, value = (
            (h @ own[name]).reshape(batch, length, count, -1)
            for name, count in (
                ("query", shape.heads), ("key", shape.groups), ("value", shape.groups),
            )
        )  # fmt: skip
        mixed = jax.nn.dot_product_attention(
            rotate(query), rotate(key), value, is_causal=True, implementation=implementation
        )
        x = x + mixed.reshape(x.shape) @ own["out"]
        h = rms_norm(x, own["norm_2"])
        return x + (jax.nn.silu(h @ own["gate"]) * (h @ own["up"])) @ own["down"], None

    table = weights["table"].astype(jnp.bfloat16)
    x, _ = jax.lax.scan(layer, table[ids], weights["layers"])
    return rms_norm(x, weights["norm"]) @ table.T
