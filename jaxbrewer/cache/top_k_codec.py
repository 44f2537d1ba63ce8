"""Packs sorted class indices and logits into few bytes, the same number for every position.

All functions are NumPy over many positions at once, so that a batch is read in a few calls.
"""

import math

import numpy as np
from jaxtyping import Float, Int, UInt8

Packed = UInt8[np.ndarray, "rows bytes"]


def _low_bits(classes: int, k: int) -> int:
    return max(int(math.log2(classes / k)), 0)


def index_bytes(classes: int, k: int) -> int:
    """Bytes of ``k`` sorted class indices.

    Examples:
        >>> index_bytes(32_000, 64), index_bytes(151_936, 64)
        (88, 106)
    """
    low = _low_bits(classes, k)
    return k * (low // 8) + -(-k * (low % 8) // 8) + -(-(k + ((classes - 1) >> low) + 1) // 8)


def pack_indices(indices: Int[np.ndarray, "rows k"], classes: int) -> Packed:
    """Packs sorted, distinct class indices by the Elias-Fano code.

    The low bits are stored directly. The high parts, which do not decrease, are a row of bits in
    which the ``j``-th 1 is at position ``high_j + j``.

    Examples:
        >>> packed = pack_indices(np.array([[3, 700, 31_999]]), 32_000)
        >>> packed.shape, unpack_indices(packed, 3, 32_000).tolist()
        ((1, 6), [[3, 700, 31999]])

    References:
        Vigna, Quasi-succinct indices, 2013, section 4, https://arxiv.org/abs/1206.4300
    """
    rows, k = indices.shape
    low = _low_bits(classes, k)
    places = (indices >> low) + np.arange(k)
    ones = np.zeros((rows, k + ((classes - 1) >> low) + 1), np.uint8)
    np.put_along_axis(ones, places, 1, axis=1)
    return np.concatenate([pack_bits(indices, low), np.packbits(ones, axis=1)], axis=1)


def unpack_indices(packed: Packed, k: int, classes: int) -> Int[np.ndarray, "rows k"]:
    """The inverse of :func:`pack_indices`."""
    low = _low_bits(classes, k)
    split = k * (low // 8) + -(-k * (low % 8) // 8)
    count = k + ((classes - 1) >> low) + 1
    ones = np.unpackbits(packed[:, split:], axis=1, count=count)
    places = np.nonzero(ones)[1].reshape(-1, k)
    high = (places - np.arange(k)).astype(np.int32)
    return (high << low) | unpack_bits(packed[:, :split], k, low).astype(np.int32)


def pack_bits(values: Int[np.ndarray, "rows k"], bits: int) -> Packed:
    """Packs the lowest ``bits`` of integers: whole bytes first, then the remaining bits.

    Examples:
        >>> unpack_bits(pack_bits(np.array([[5, 2, 1000]]), 10), 3, 10).tolist()
        [[5, 2, 1000]]
    """
    rows = len(values)
    parts = [(values >> (8 * byte)).astype(np.uint8) for byte in range(bits // 8)]
    if bits % 8:
        rest = (values >> (bits - bits % 8)).astype(np.uint8)
        planes = (rest[..., None] >> np.arange(bits % 8, dtype=np.uint8)) & 1
        parts.append(np.packbits(planes.reshape(rows, -1), axis=1))
    return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), np.uint8)


def unpack_bits(packed: Packed, k: int, bits: int) -> Int[np.ndarray, "rows k"]:
    """The inverse of :func:`pack_bits`, as uint32."""
    rows, whole = len(packed), bits // 8
    values = np.zeros((rows, k), np.uint32)
    for byte in range(whole):
        values |= packed[:, byte * k : (byte + 1) * k].astype(np.uint32) << np.uint32(8 * byte)
    if bits % 8:
        planes = np.unpackbits(packed[:, whole * k :], axis=1, count=k * (bits % 8))
        for bit in range(bits % 8):
            values |= planes[:, bit :: bits % 8].astype(np.uint32) << np.uint32(8 * whole + bit)
    return values


def value_bytes(k: int, bits: int) -> int:
    """Bytes of ``k`` logits.

    Examples:
        >>> value_bytes(64, 8), value_bytes(64, 32)
        (70, 256)
    """
    return 4 * k if bits == 32 else 6 + k * (bits // 8) + -(-k * (bits % 8) // 8)


def pack_values(logits: Float[np.ndarray, "rows k"], bits: int) -> Packed:
    r"""Quantizes logits on a grid per position that is finer for larger logits.

    The code of a logit is :math:`\sqrt{(z_{max} - z) / (z_{max} - z_{min})}` as an integer of
    ``bits``; the largest code means ``-inf``. The loss sees the error times the probability, which
    this grid spreads more evenly than equal steps. 32 bits keep float32 unchanged.

    Examples:
        >>> logits = np.array([[-1.0, -np.inf, 3.0, 2.9]], np.float32)
        >>> print(unpack_values(pack_values(logits, 8), 4, 8).round(1))
        [[-1.  -inf  3.   2.9]]
    """
    logits = np.ascontiguousarray(logits, "<f4")
    if bits == 32:
        return logits.view(np.uint8)
    finite = np.isfinite(logits)
    largest = np.max(logits, axis=1, initial=-np.inf, where=finite)
    largest = np.where(np.isfinite(largest), largest, 0).astype("<f4")[:, None]
    below = np.where(finite, largest - logits, 0)
    width = below.max(axis=1, keepdims=True).astype("<f2").astype(np.float32)
    width = np.where(np.isfinite(width), width, np.finfo(np.float16).max)
    steps = (1 << bits) - 2
    share = np.clip(below / np.where(width > 0, width, 1), 0, 1)
    codes = np.where(finite, np.rint(np.sqrt(share) * steps), steps + 1).astype(np.uint32)
    parts = [largest.view(np.uint8), width.astype("<f2").view(np.uint8), pack_bits(codes, bits)]
    return np.concatenate(parts, axis=1)


def unpack_values(packed: Packed, k: int, bits: int) -> Float[np.ndarray, "rows k"]:
    """The inverse of :func:`pack_values`, as float32."""
    if bits == 32:
        return np.ascontiguousarray(packed).view("<f4").astype(np.float32, copy=False)
    largest = np.ascontiguousarray(packed[:, :4]).view("<f4")
    width = np.ascontiguousarray(packed[:, 4:6]).view("<f2").astype(np.float32)
    codes, steps = unpack_bits(packed[:, 6:], k, bits), (1 << bits) - 2
    share = (np.arange(steps + 2, dtype=np.float32) / np.float32(steps)) ** 2
    share[steps + 1] = np.inf
    below = share[codes] * np.where(width > 0, width, np.float32(1))
    below[(width[:, 0] == 0)[:, None] & (codes <= steps)] = 0
    return largest - below
