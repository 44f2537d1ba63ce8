"""How examples are identified, and records that stay in memory."""

import hashlib
import zlib

import numpy as np

from jaxbrewer.cache.keys import content_digests
from jaxbrewer.cache.lookup import KeptRecords

_WORD = 2**64 - 1


def _mixed(x: int) -> int:
    """The finalizer of splitmix64, in whole numbers of Python."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def _digest(part: dict[str, list[int]], lane: int) -> int:
    """The digest by which caches on disk identify an example."""
    first = part["attention_mask"].index(1)
    factor = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)[lane]
    total = 0
    for name, values in part.items():
        hashed = hashlib.blake2b(f"['{name}']".encode(), digest_size=16).digest()
        salt = int.from_bytes(hashed[8 * lane : 8 * lane + 8], "little")
        valid = [i for i, keep in enumerate(part["attention_mask"]) if keep]
        numbers = (_mixed((values[i] + factor * (i - first + 1)) & _WORD) for i in valid)
        total += _mixed(sum(numbers) & _WORD ^ salt)
    return total & _WORD


def test_digests_are_those_of_their_definition():
    rows = [
        {"attention_mask": [1, 1, 1, 0], "input_ids": [5, 6, 7, 0]},
        {"attention_mask": [0, 0, 1, 1], "input_ids": [0, 0, 9, 2**31 - 1]},
    ]
    batch = {name: np.array([row[name] for row in rows], np.int32) for name in rows[0]}
    wanted = [[_digest(row, lane) for lane in range(2)] for row in rows]
    assert content_digests(batch).tolist() == wanted


class Source:
    """Records of 14 bytes for the keys that begin with ``k``; it notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def read(self, keys):
        self.asked.extend(keys)
        return [record(key) if key.startswith(b"k") else None for key in keys]


def record(key: bytes) -> bytes:
    """A sound record."""
    return key.ljust(10) + zlib.crc32(key.ljust(10)).to_bytes(4, "little")


def test_records_are_read_once_until_the_memory_for_them_is_full():
    source = Source()
    records = KeptRecords(source, 40)
    keys = [b"k1", b"k2", b"absent", b"k3", b"k1"]
    wanted = [record(b"k1"), record(b"k2"), None, record(b"k3"), record(b"k1")]
    assert records.read(keys) == wanted
    assert source.asked == [b"k1", b"k2", b"absent", b"k3", b"k1"]
    source.asked.clear()
    assert records.read(keys) == wanted
    assert source.asked == [b"absent", b"k3"]


def test_a_damaged_record_is_empty_and_is_read_again():
    source = Source()
    damaged = KeptRecords(source, 10**6)
    source.read = lambda keys: [b"x" + record(key)[1:] for key in keys]
    assert damaged.read([b"k1"]) == [b""]
    source.read = lambda keys: [record(key) for key in keys]
    assert damaged.read([b"k1"]) == [record(b"k1")]
