"""Berkeley DB hash files, written whole.

:func:`write_hash` makes a file as Berkeley DB 5.3 would, little-endian, with 4096-byte pages, so
that Berkeley DB's own tools, Postfix and Cyrus SASL read, check and change it later.  The new file
takes the old one's place by ``rename`` after an ``fsync``: readers see the old or the new, a crash
leaves one of both.  Owner and mode of the old file are kept, or nothing is done.

:func:`writing` is the lock for read, change and write: it keeps out our own writers and those of
Postfix's postmap, which locks the file itself.  Whoever may read a directory may lock it, so it has an end.

Raises :class:`~mtad.errors.TableError`.  Counterpart: Berkeley DB's ``hash_page.c``, ``hash_meta.c``.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from mtad.errors import TableError
from mtad.tables.bdb import (
    BIG_ITEM,
    CHARKEY,
    FNV_PRIME,
    H_KEYDATA,
    H_OFFPAGE,
    HASH_MAGIC,
    ITEM_LIMIT,
    P_HASH,
    P_HASHMETA,
    P_OVERFLOW,
    PAGE_HEADER,
    hash_fnv,
)
from mtad.tables.hashing import hash_all

PAGE_SIZE = 4096
_BIG = PAGE_SIZE // BIG_ITEM
_ROOM = PAGE_SIZE - PAGE_HEADER
#: Seconds to wait for a lock, and between two looks at it.
_PATIENCE, _PAUSE = 20.0, 0.01
_INLINE = bytes((H_KEYDATA,))
HEADER = struct.Struct("<IIIIIHHBB")  # LSN of an unlogged page, then the page header

#: How full the pages are on the average: room for a few more entries before a bucket needs a second page.
_FILL = 0.6


def write_hash(
    path: str,
    items: Iterable[tuple[bytes, bytes]],
    *,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
) -> None:
    """Make ``path`` a hash file of ``items`` (of two with one key the later counts).

    ``mode`` and ``owner`` (user and group ID) are for a new file; an existing one keeps its own.
    """
    with replacing(path, mode=mode, owner=owner) as out:
        _write(out, items)


def hash_content(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The content of such a file."""
    out = io.BytesIO()
    _write(out, items)
    return out.getvalue()


@contextmanager
def replacing(path: str, *, mode: int, owner: tuple[int, int] | None) -> Iterator[BinaryIO]:
    """A file to write that becomes ``path``, whole and on the disk, when the block ends well."""
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    temporary = ""
    try:
        try:
            status = os.stat(path)
            mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
        except FileNotFoundError:
            pass
        fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
        os.close(fd)
        with open(temporary, "wb") as out:
            created = os.fstat(out.fileno())
            if owner is not None and owner != (created.st_uid, created.st_gid):
                os.fchown(out.fileno(), *owner)
            os.fchmod(out.fileno(), mode)
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.rename(temporary, path)
        temporary = ""
        sync_directory(directory)
    except OSError as error:
        raise TableError(f"write {path}: {error.strerror}") from error
    finally:
        if temporary:
            os.unlink(temporary)


def sync_directory(directory: str) -> None:
    """Have the names in a directory on the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Be the only one who changes ``path``: by a lock on its directory, and on the file if there is one."""
    path = os.path.realpath(path)
    with ExitStack() as stack:
        try:
            _lock(stack, os.path.dirname(path))
            try:
                _lock(stack, path)
            except FileNotFoundError:
                pass
        except BlockingIOError as error:
            raise TableError(f"lock {path}: another process has locked it, or its directory") from error
        except OSError as error:
            raise TableError(f"lock {path}: {error.strerror}") from error
        yield


def _lock(stack: ExitStack, path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)


def _size(item: bytes) -> int:
    """What an item takes on a page, its offset included."""
    return (12 if len(item) > _BIG else 1 + len(item)) + 2


def _write(out: BinaryIO, items: Iterable[tuple[bytes, bytes]]) -> None:
    entries = dict(items)
    total = 0
    for key, value in entries.items():
        if len(key) > ITEM_LIMIT or len(value) > ITEM_LIMIT:
            raise TableError("key or value too long")
        total += _size(key) + _size(value)
    buckets = 2
    while total > buckets * _ROOM * _FILL:
        buckets *= 2
    mask = buckets - 1
    contents: list[list[tuple[bytes, bytes]]] = [[] for _ in range(buckets)]
    for code, entry in zip(hash_all(list(entries), FNV_PRIME, 0), entries.items(), strict=True):
        contents[code & mask].append(entry)
    extra = ExtraPages(1 + buckets)
    out.seek(PAGE_SIZE)
    for bucket, content in enumerate(contents):
        out.write(_bucket(1 + bucket, content, extra))
    for page in extra.pages:
        out.write(page)
    out.seek(0)
    out.write(_meta(len(entries), buckets, extra.next_page - 1))


class ExtraPages:
    """The pages after the buckets' own: overflow items and further pages of full buckets."""

    def __init__(self, first: int) -> None:
        self.next_page = first
        self.pages: list[bytes] = []

    def take(self) -> int:
        """Reserve the next page, to be filled by ``pages[number - first]``."""
        self.pages.append(b"")
        self.next_page += 1
        return self.next_page - 1

    def put(self, number: int, page: bytes) -> None:
        self.pages[number - self.next_page] = page  # from the end: pages[-1] is next_page - 1

    def item(self, data: bytes) -> bytes:
        """Store ``data`` on overflow pages; gives what refers to it on a hash page."""
        numbers = [self.take() for _ in range(0, len(data), _ROOM)]
        for position, number in enumerate(numbers):
            part = data[position * _ROOM : (position + 1) * _ROOM]
            previous = numbers[position - 1] if position else 0
            following = numbers[position + 1] if position + 1 < len(numbers) else 0
            header = HEADER.pack(0, 1, number, previous, following, 1, len(part), 0, P_OVERFLOW)
            self.put(number, (header + part).ljust(PAGE_SIZE, b"\0"))
        return struct.pack("<B3xII", H_OFFPAGE, numbers[0], len(data))


def _order(entry: tuple[bytes, bytes]) -> tuple[bool, str]:
    """How Berkeley DB 5 sorts a page, for its binary search.

    Of two keys on the page of which one is the other's beginning, the longer comes first; of two big
    keys, kept on overflow pages, the shorter.  Between a key of the one and one of the other kind its
    order is not even transitive, hence they get pages of their own.
    """
    key = entry[0].decode("latin-1")
    big = len(key) > _BIG
    return big, key if big else key + "\u0100"


def _bucket(number: int, content: list[tuple[bytes, bytes]], extra: ExtraPages) -> bytes:
    """A bucket's first page; what has no room goes to further pages."""
    pages: list[list[bytes]] = [[]]
    room = _ROOM
    big_keys = False
    for key, value in sorted(content, key=_order):
        need = _size(key) + _size(value)
        new_order = len(key) > _BIG and not big_keys
        big_keys |= new_order
        if need > room or (new_order and pages[-1]):
            pages.append([])
            room = _ROOM
        room -= need
        pages[-1] += (
            extra.item(key) if len(key) > _BIG else _INLINE + key,
            extra.item(value) if len(value) > _BIG else _INLINE + value,
        )
    numbers = [number] + [extra.take() for _ in pages[1:]]
    for position in range(1, len(pages)):
        following = numbers[position + 1] if position + 1 < len(pages) else 0
        page = _page(numbers[position], numbers[position - 1], following, pages[position])
        extra.put(numbers[position], page)
    return _page(number, 0, numbers[1] if len(numbers) > 1 else 0, pages[0])


def _page(number: int, previous: int, following: int, items: list[bytes]) -> bytes:
    """A hash page: offsets grow from its start, items from its end."""
    offsets = []
    offset = PAGE_SIZE
    for item in items:
        offset -= len(item)
        offsets.append(offset)
    header = HEADER.pack(0, 1, number, previous, following, len(items), offset, 0, P_HASH)
    head = header + struct.pack(f"<{len(offsets)}H", *offsets)
    return head.ljust(offset, b"\0") + b"".join(reversed(items))


def _meta(count: int, buckets: int, last_page: int) -> bytes:
    """The first page: what the file is and how its buckets lie."""
    spares = [1] * buckets.bit_length() + [0] * (32 - buckets.bit_length())
    page = struct.pack(
        "<IIIIIIBBBxIIIIII20s",
        *(0, 1, 0, HASH_MAGIC, 9, PAGE_SIZE, 0, P_HASHMETA, 0),
        *(0, last_page, 0, 0, 0, 0, os.urandom(20)),
    )
    page += struct.pack("<6I", buckets - 1, buckets - 1, buckets // 2 - 1, 0, count, hash_fnv(CHARKEY))
    page += struct.pack("<32I", *spares)
    return page.ljust(PAGE_SIZE, b"\0")
