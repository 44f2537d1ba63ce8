"""Checksums notice any change of any array, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer.checksums import checksums, fingerprint


def mixed(values):
    """The same sum in 64-bit NumPy arithmetic."""
    low = np.uint64(0xFFFFFFFF)
    words = np.ascontiguousarray(values).view(np.uint32).reshape(-1).astype(np.uint64)
    x = (words + (np.arange(words.size, dtype=np.uint64) + 1) * 0x9E3779B1) & low
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & low
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & low
    return int((x ^ (x >> 16)).sum() & low)


def test_the_sum_is_that_of_the_formula():
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    assert checksums({"w": values}) == {"w": mixed(values)}
    with jax.enable_x64(True):
        assert checksums([values.astype(np.float64)]) == {"0": mixed(values.astype(np.float64))}


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "bfloat16",
        "float16",
        "float8_e4m3fn",
        "int8",
        "uint32",
        "bool",
        "int4",
        "complex64",
    ],
)
def test_every_dtype_has_a_sum_that_changes_with_any_element(dtype):
    values = (jnp.arange(12).reshape(3, 4) % 2).astype(dtype)
    seen = {checksums(values)[""]}
    for index in np.ndindex(3, 4):
        changed = np.array(values)
        changed[index] = 1 - changed[index] if dtype != "bool" else ~changed[index]
        seen.add(checksums(jnp.asarray(changed, values.dtype))[""])
    assert len(seen) == 13


def test_flipped_signs_in_pairs_and_exchanged_rows_are_seen():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32))
    changed = [values.at[:2].multiply(-1), values[::-1], values.at[0, 0].set(-0.0), values * 0]
    changed.append(values.at[0, 0].set(0.0))
    sums = [checksums(tree)[""] for tree in [values, *changed]]
    assert len(set(sums)) == 6


def test_fingerprints_cover_paths_shapes_dtypes_and_values():
    one = {"a": np.zeros((2, 3), np.float32), "key": jax.random.key(0)}
    others = [
        {"b": one["a"], "key": one["key"]},
        {**one, "a": np.zeros((3, 2), np.float32)},
        {**one, "a": np.zeros((2, 3), np.int32)},
        {**one, "a": np.ones((2, 3), np.float32)},
        {**one, "key": jax.random.key(1)},
    ]
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    assert len({fingerprint(tree) for tree in [one, *others]}) == 6
