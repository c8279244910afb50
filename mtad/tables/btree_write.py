"""Berkeley DB btree files, written whole.

:func:`write_btree` makes a file as Berkeley DB 5.3 would, little-endian, with 4096-byte pages: leaves filled
in the order of the keys, and above them pages of separators, up to the root on page 1.  How the file takes
the old one's place is told in :mod:`mtad.tables.bdb_write`.

Raises :class:`~mtad.errors.TableError`.  Counterpart: Berkeley DB's ``bt_put.c``, ``bt_split.c``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import BinaryIO

from mtad.errors import TableError
from mtad.tables.bdb import BTREE_MAGIC, H_KEYDATA, H_OFFPAGE, ITEM_LIMIT, P_IBTREE, P_LBTREE, PAGE_HEADER
from mtad.tables.bdb_write import HEADER, PAGE_SIZE, ExtraPages, replacing

_META = 9
_MINIMUM_KEYS = 2  # what a page must hold at least
_ROOM = PAGE_SIZE - PAGE_HEADER
#: The largest item that is kept on the page.
_BIG = _ROOM // (_MINIMUM_KEYS * 2) - 10
_OVERFLOW = 12
_ROOT, _FIRST_LEAF = 1, 2

#: A page's first key and its number.
Child = tuple[bytes, int]


def write_btree(
    path: str,
    items: Iterable[tuple[bytes, bytes]],
    *,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
) -> None:
    """Make ``path`` a btree file of ``items`` (of two with one key the later counts).

    ``mode`` and ``owner`` (user and group ID) are for a new file; an existing one keeps its own.
    """
    with replacing(path, mode=mode, owner=owner) as out:
        _write(out, sorted(dict(items).items()))


def _write(out: BinaryIO, entries: list[tuple[bytes, bytes]]) -> None:
    if any(len(key) > ITEM_LIMIT or len(value) > ITEM_LIMIT for key, value in entries):
        raise TableError("key or value too long")
    leaves = _leaves(entries)
    if len(leaves) == 1:
        extra = ExtraPages(_FIRST_LEAF)
        root = _leaf(_ROOT, 0, 0, leaves[0], extra)
    else:
        extra = ExtraPages(_FIRST_LEAF + len(leaves))
        out.seek(_FIRST_LEAF * PAGE_SIZE)
        children: list[Child] = []
        last = b""
        for position, leaf in enumerate(leaves):
            number = _FIRST_LEAF + position
            following = number + 1 if position + 1 < len(leaves) else 0
            out.write(_leaf(number, number - 1 if position else 0, following, leaf, extra))
            children.append((_separator(last, leaf[0][0]), number))
            last = leaf[-1][0]
        root = _tree(children, extra)
    out.seek((extra.next_page - len(extra.pages)) * PAGE_SIZE)
    for page in extra.pages:
        out.write(page)
    out.seek(0)
    out.write(_meta(extra.next_page - 1))
    out.write(root)


def _size(item: bytes) -> int:
    """What an item takes on a leaf, its offset included."""
    return (_OVERFLOW if len(item) > _BIG else len(item) + 3 + 3 & ~3) + 2


def _leaves(entries: list[tuple[bytes, bytes]]) -> list[list[tuple[bytes, bytes]]]:
    """The entries, cut into what fits a page each."""
    leaves: list[list[tuple[bytes, bytes]]] = [[]]
    room = _ROOM
    for entry in entries:
        need = _size(entry[0]) + _size(entry[1])
        if need > room:
            leaves.append([])
            room = _ROOM
        room -= need
        leaves[-1].append(entry)
    return leaves


def _leaf(
    number: int, previous: int, following: int, entries: list[tuple[bytes, bytes]], extra: ExtraPages
) -> bytes:
    items = []
    for entry in entries:
        for item in entry:
            if len(item) > _BIG:
                items.append(_elsewhere(item, extra))
            else:
                items.append(struct.pack("<HB", len(item), H_KEYDATA) + item)
    return _page(number, previous, following, items, 1, P_LBTREE)


def _elsewhere(item: bytes, extra: ExtraPages) -> bytes:
    """What refers to an item on pages of its own."""
    _, first, length = struct.unpack("<B3xII", extra.item(item))
    return struct.pack("<HBxII", 0, H_OFFPAGE, first, length)


def _separator(last: bytes, first: bytes) -> bytes:
    """The shortest beginning of ``first`` that is greater than ``last``."""
    shorter = min(len(last), len(first))
    same = next((position for position in range(shorter) if last[position] != first[position]), shorter)
    return first[: same + 1]


def _tree(children: list[Child], extra: ExtraPages) -> bytes:
    """The pages above the leaves; the root comes back, the others go to ``extra``."""
    level = 2
    while True:
        groups: list[list[Child]] = [[]]
        room = _ROOM
        for child in children:
            need = 2 + (_OVERFLOW * 2 if len(child[0]) > _BIG else len(child[0]) + 12 + 3 & ~3)
            if need > room:
                groups.append([])
                room = _ROOM
            room -= need
            groups[-1].append(child)
        if len(groups) == 1:
            return _internal(_ROOT, groups[0], level, extra)
        children = []
        for group in groups:
            number = extra.take()
            extra.put(number, _internal(number, group, level, extra))
            children.append((group[0][0], number))
        level += 1


def _internal(number: int, children: list[Child], level: int, extra: ExtraPages) -> bytes:
    items = []
    for position, (key, child) in enumerate(children):
        if not position:
            key = b""  # the first is less than all others, whatever it is
        if len(key) > _BIG:
            items.append(struct.pack("<HBxII", _OVERFLOW, H_OFFPAGE, child, 0) + _elsewhere(key, extra))
        else:
            items.append(struct.pack("<HBxII", len(key), H_KEYDATA, child, 0) + key)
    return _page(number, 0, 0, items, level, P_IBTREE)


def _page(number: int, previous: int, following: int, items: list[bytes], level: int, kind: int) -> bytes:
    """A page: offsets grow from its start, items, each beginning at a multiple of four, from its end."""
    offsets = []
    offset = PAGE_SIZE
    for item in items:
        offset -= len(item) + 3 & ~3
        offsets.append(offset)
    header = HEADER.pack(0, 1, number, previous, following, len(items), offset, level, kind)
    head = (header + struct.pack(f"<{len(offsets)}H", *offsets)).ljust(offset, b"\0")
    return head + b"".join(item + b"\0" * (-len(item) % 4) for item in reversed(items))


def _meta(last_page: int) -> bytes:
    """The first page: what the file is and where its root lies."""
    page = struct.pack(
        "<IIIIIIBBBxIIIIII20s",
        *(0, 1, 0, BTREE_MAGIC, 9, PAGE_SIZE, 0, _META, 0),
        *(0, last_page, 0, 0, 0, 0, os.urandom(20)),
    )
    page += struct.pack("<5I", 0, _MINIMUM_KEYS, 0, ord(" "), _ROOT)
    return page.ljust(PAGE_SIZE, b"\0")
