"""How positions are divided into chunks: from shapes, the backend and the devices of a batch."""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

CHUNK_BYTES = {"cpu": 2**26}
"""Bytes of a chunk's logits in float32, by JAX's name of the backend."""
OTHER_CHUNK_BYTES = 2**29

_parts = contextvars.ContextVar("batch parts", default=1)


class Chunks(NamedTuple):
    """How positions are divided.

    Attributes:
        number: Number of chunks, which are computed one after the other; 1 for the plain form.
        size: Positions of a chunk in each part.
        parts: Parts of the batch, each on a device of its own; a chunk has ``size`` positions of
            each.
    """

    number: int
    size: int
    parts: int = 1


def choose_chunks(
    positions: int, classes: int, *, chunk_bytes: int | None = None, parts: int | None = None
) -> Chunks:
    """The chunks in which logits ``[positions, classes]`` are computed.

    Args:
        positions: Number of positions.
        classes: Number of classes.
        chunk_bytes: The most that the logits of a chunk may take, in float32 and in each part;
            about, since a number of chunks that divides the positions needs no padding. ``None``
            takes 64 MiB on a CPU and 512 MiB on other devices.
        parts: Number of devices that share the batch; ``None`` takes that of
            :func:`batch_in_parts`.

    Examples:
        >>> choose_chunks(4096, 128_256, chunk_bytes=2**26, parts=1)
        Chunks(number=32, size=128, parts=1)
        >>> choose_chunks(4096, 1_000, chunk_bytes=2**26, parts=1).number  # the plain form
        1
    """
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(jax.default_backend(), OTHER_CHUNK_BYTES)
    parts = _parts.get() if parts is None else parts
    if positions % parts:
        parts = 1
    own = positions // parts
    wanted = math.ceil(4 * own * classes / chunk_bytes)
    if wanted <= 1:
        return Chunks(1, own, parts)
    wanted = min(wanted, own)
    near = range(math.ceil(0.75 * wanted), math.floor(1.5 * wanted) + 1)
    number = min(
        (n for n in near if n > 1 and own % n == 0), key=lambda n: abs(n - wanted), default=wanted
    )
    return Chunks(number, math.ceil(own / number), parts)


def describe(chunks: Chunks, positions: int, classes: int) -> str:
    """One line about chunks.

    Examples:
        >>> describe(Chunks(32, 128), 4096, 128_256)
        'logits of 4,096 positions x 128,256 classes in 32 chunks of 128 positions'
        >>> describe(Chunks(1, 64), 64, 1_000)
        'logits of 64 positions x 1,000 classes, whole'
    """
    whole = f"logits of {positions:,} positions x {classes:,} classes"
    if chunks.number == 1:
        return f"{whole}, whole"
    each = f" in each of {chunks.parts} parts" if chunks.parts > 1 else ""
    return f"{whole} in {chunks.number:,} chunks of {chunks.size:,} positions{each}"


@contextlib.contextmanager
def batch_in_parts(parts: int) -> Iterator[None]:
    """Tells what is traced inside that the first axis of a batch is split over ``parts`` devices.

    Each device then accumulates the gradient of the head over its own positions; the devices add
    these up once, not once for each chunk.

    Args:
        parts: Number of devices.

    Examples:
        >>> with batch_in_parts(4):
        ...     pass  # trace the loss here
    """
    token = _parts.set(parts)
    try:
        yield
    finally:
        _parts.reset(token)
