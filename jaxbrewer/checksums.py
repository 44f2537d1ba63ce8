"""Checksums of arrays, computed on the devices that hold them."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


def checksums(tree: PyTree) -> dict[str, int]:
    """A 32-bit checksum of each array, under its path.

    It is a sum of hashes of each element with its place, so any order of addition, and any
    sharding, gives the same integer. It does not depend on shapes and dtypes.

    Examples:
        >>> one, other = jnp.arange(3.0), jnp.array([0.0, 2.0, 1.0])
        >>> sums = checksums({"w": {"one": one, "other": other}, "again": one})
        >>> sorted(sums), sums["w/one"] == sums["again"], sums["w/one"] == sums["w/other"]
        (['again', 'w/one', 'w/other'], True, False)
    """
    named = leaves_by_path(tree)
    summed = jax.device_get([_checksum(leaf) for leaf in named.values()])
    return {name: int(value) for name, value in zip(named, summed, strict=True)}


def fingerprint(tree: PyTree) -> str:
    """Sixteen hexadecimal digits that identify a tree of arrays: paths, shapes, dtypes, values."""
    described = [
        f"{name} {jnp.shape(leaf)} {jnp.result_type(leaf)} {value}"
        for (name, leaf), value in zip(
            leaves_by_path(tree).items(), checksums(tree).values(), strict=True
        )
    ]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree under readable names, such as ``student/params/first/kernel``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@jax.jit
def _checksum(leaf: jax.Array) -> jax.Array:
    words = _words(leaf)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    mixed = words + (place + 1) * jnp.uint32(0x9E3779B1)  # MurmurHash3's finalizer, per element
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as 32-bit words; 8-byte dtypes give two, on a last axis."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype.itemsize == 2:
        return lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32)
    if leaf.dtype.itemsize == 1:  # no bitcast from 4-bit dtypes or bool; these casts are exact
        leaf = leaf.astype(jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32)
    return lax.bitcast_convert_type(leaf, jnp.uint32)
