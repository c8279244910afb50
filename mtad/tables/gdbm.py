"""GDBM files, as Fedora, Arch and others keep ``sasldb2``: read and written whole.

:func:`read_gdbm` gives all entries of a file's content (standard and ``numsync`` headers, 32 and 64 bit,
in either byte order); :func:`gdbm_content` makes the content of a new one, with the header that every GDBM
since 1.8 reads.  What is not such a file, or is damaged, raises :class:`~mtad.errors.TableError`; no length
or place in a file is trusted.

Counterpart: GDBM's ``gdbmdefs.h``, ``hash.c``, ``bucket.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mtad.errors import TableError

#: The first four bytes, by what follows them: standard and numsync headers with 32-bit and 64-bit offsets.
_MAGIC32 = frozenset({0x13579ACD, 0x13579AD0})
_MAGIC64 = frozenset({0x13579ACE, 0x13579ACF, 0x13579AD1})

_BLOCK = 4096
_FREE = 0xFFFFFFFF  # the hash of an element that holds nothing
_SMALL = 4  # how much of a key stands in its bucket

_DIRECTORY_BITS = 9  # a block of 64-bit offsets
_DIRECTORY_LIMIT = 20
_ELEMENT = struct.Struct("<I4sQII")
_BUCKET_HEAD = 112
_ELEMENTS = (_BLOCK - _BUCKET_HEAD) // _ELEMENT.size
_AVAILABLE = (_BLOCK - 64) // 16


def is_gdbm(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is of this kind."""
    return any(int.from_bytes(head[:4], order) in _MAGIC32 | _MAGIC64 for order in ("little", "big"))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in a file of one word size and byte order."""

    header: struct.Struct  # magic, block size, directory, its size, its bits, bucket size, elements
    offset: struct.Struct
    element: struct.Struct
    head: int


def _layout(data: bytes, path: str) -> _Layout:
    for sign in "<>":
        (magic,) = struct.unpack_from(sign + "I", data.ljust(4, b"\0"))
        if magic in _MAGIC64:
            return _Layout(
                struct.Struct(sign + "IIQIIII"),
                struct.Struct(sign + "Q"),
                struct.Struct(sign + "I4sQII"),
                112,
            )
        if magic in _MAGIC32:
            return _Layout(
                struct.Struct(sign + "IIIIIII"), struct.Struct(sign + "I"), struct.Struct(sign + "I4sIII"), 60
            )
    raise TableError(f"{path}: not a GDBM file")


def read_gdbm(data: bytes, path: str) -> dict[bytes, bytes]:
    """The entries of a file whose content is ``data``."""
    layout = _layout(data, path)
    entries: dict[bytes, bytes] = {}
    try:
        _, _, directory, size, _, bucket_size, elements = layout.header.unpack_from(data)
        if directory + size > len(data) or layout.head + elements * layout.element.size > bucket_size:
            raise TableError(f"{path}: damaged: its header tells more than there is")
        table = data[directory : directory + size - size % layout.offset.size]
        for bucket in dict.fromkeys(place for (place,) in layout.offset.iter_unpack(table)):
            for number in range(elements):
                if bucket > len(data):
                    raise TableError(f"{path}: damaged: a bucket beyond its end")
                place = bucket + layout.head + number * layout.element.size
                hashed, _, where, key_size, value_size = layout.element.unpack_from(data, place)
                if hashed == _FREE:
                    continue
                end = where + key_size + value_size
                if end > len(data):
                    raise TableError(f"{path}: damaged: an entry beyond its end")
                entries[data[where : where + key_size]] = data[where + key_size : end]
    except struct.error as error:
        raise TableError(f"{path}: damaged: {error}") from error
    return entries


def gdbm_hash(key: bytes) -> int:
    """GDBM's hash function: 31 bits."""
    value = 0x238F13AF * len(key)
    for index, byte in enumerate(key):
        signed = byte - 256 if byte > 127 else byte
        value = (value + (signed << (index * 5 % 24))) & 0x7FFFFFFF
    return (1103515243 * value + 12345) & 0x7FFFFFFF


_Entry = tuple[int, bytes, bytes]


def gdbm_content(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The content of a file with these entries; of two with one key the later counts."""
    buckets: list[tuple[int, int, list[_Entry]]] = []  # prefix, how many bits of it, entries
    _split(0, 0, [(gdbm_hash(key), key, value) for key, value in dict(items).items()], buckets)
    bits = max(_DIRECTORY_BITS, *(width for _, width, _ in buckets))
    directory_size = 8 << bits
    first = _BLOCK + directory_size
    place = first + len(buckets) * _BLOCK
    directory = bytearray(directory_size)
    pages, content = [], []
    for number, (prefix, width, entries) in enumerate(buckets):
        shared = 1 << (bits - width)
        start = (prefix << (bits - width)) * 8
        directory[start : start + shared * 8] = struct.pack("<Q", first + number * _BLOCK) * shared
        slots: list[bytes | None] = [None] * _ELEMENTS
        for hashed, key, value in entries:
            slot = hashed % _ELEMENTS
            while slots[slot] is not None:
                slot = (slot + 1) % _ELEMENTS
            slots[slot] = _ELEMENT.pack(
                hashed, key[:_SMALL].ljust(_SMALL, b"\0"), place, len(key), len(value)
            )
            content += [key, value]
            place += len(key) + len(value)
        head = bytes(104) + struct.pack("<II", width, len(entries))
        free = _ELEMENT.pack(_FREE, bytes(_SMALL), 0, 0, 0)
        pages.append((head + b"".join(slot or free for slot in slots)).ljust(_BLOCK, b"\0"))
    end = -(-place // _BLOCK) * _BLOCK
    header = struct.pack(
        "<IIQIIIIQIIQ",
        0x13579ACF,
        _BLOCK,
        _BLOCK,
        directory_size,
        bits,
        _BLOCK,
        _ELEMENTS,
        end,
        _AVAILABLE,
        0,
        0,
    )
    whole = [header.ljust(_BLOCK, b"\0"), bytes(directory), *pages, *content]
    return b"".join(whole).ljust(end, b"\0")


def _split(
    prefix: int, width: int, entries: list[_Entry], buckets: list[tuple[int, int, list[_Entry]]]
) -> None:
    """Put entries into buckets of at most as many as one holds, in the order of their hashes."""
    if len(entries) <= _ELEMENTS:
        buckets.append((prefix, width, entries))
        return
    if width == _DIRECTORY_LIMIT:
        raise TableError("too many entries for a GDBM file")
    bit = 1 << (30 - width)
    _split(prefix << 1, width + 1, [each for each in entries if not each[0] & bit], buckets)
    _split(prefix << 1 | 1, width + 1, [each for each in entries if each[0] & bit], buckets)
