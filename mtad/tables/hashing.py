"""The hash functions of index files, of one key and of very many at a time.

Both formats multiply and then mix in the next byte: ``state * factor ^ byte``, in 32 bits.

Counterpart: Berkeley DB's ``__ham_func4`` (Fowler/Noll/Vo), cdb's ``cdb_hash``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

#: From how many keys on they are hashed together, and how many of them at a time.
_FEW, _LANES = 1000, 8192
_WORD = 0xFFFFFFFF


def hash_one(key: bytes, factor: int, start: int) -> int:
    """The hash of ``key``."""
    state = start
    for byte in key:
        state = (state * factor & _WORD) ^ byte
    return state


def hash_all(keys: list[bytes], factor: int, start: int) -> Iterable[int]:
    """The hash of every key, in order.

    The states of all keys of one length lie side by side in one large integer, 64 bits each, so that
    Python's own arithmetic takes them a step further all at once.
    """
    if len(keys) < _FEW:
        return [hash_one(key, factor, start) for key in keys]
    codes = array("Q", bytes(8 * len(keys)))
    by_length: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        by_length.setdefault(len(key), []).append(position)
    for positions in by_length.values():
        for first in range(0, len(positions), _LANES):
            part = positions[first : first + _LANES]
            for position, code in zip(part, _together([keys[at] for at in part], factor, start), strict=True):
                codes[position] = code
    return codes


def _together(keys: list[bytes], factor: int, start: int) -> Iterable[int]:
    """The hashes of keys that are all of the same length."""
    length, count = len(keys[0]), len(keys)
    text = b"".join(keys)
    lanes = bytearray(8 * count)
    mask = int.from_bytes(_WORD.to_bytes(8, "little") * count, "little")
    state = int.from_bytes(start.to_bytes(8, "little") * count, "little")
    for offset in range(length):
        lanes[::8] = text[offset::length]
        state = (state * factor & mask) ^ int.from_bytes(lanes, "little")
    found = array("Q")
    found.frombytes(state.to_bytes(8 * count, "little"))
    if sys.byteorder == "big":
        found.byteswap()
    return found
