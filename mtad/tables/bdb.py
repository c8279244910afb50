"""Berkeley DB files, read: hash and btree as Berkeley DB 3.x to 18.x write them, in either byte order.

:func:`open_bdb` gives a :class:`HashFile` or a :class:`BtreeFile`: ``get`` finds one key's value, ``items``
walks over all in the order of Berkeley DB's own cursor.  What is not such a file, is damaged, or
uses what mail tables never use (encryption, checksums, duplicates, subdatabases, compression, a
custom hash function) raises :class:`~mtad.errors.TableError`.  No length in a file is trusted.

A file of moderate size is read whole, under a shared ``flock``: it may change in place later (Postfix's
postmap writes in place) without harm.  A larger one is read page by page with ``pread``, never through
``mmap``, since a file cut short under a mapping kills the process; :meth:`PageFile.reading` locks it then.

Counterpart: Berkeley DB's ``db_page.h``, ``hash_page.c``, ``bt_search.c``.
:mod:`mtad.tables.bdb_write` writes.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from mtad.errors import TableError
from mtad.tables.hashing import hash_one
from mtad.tables.table import Identity, identity

HASH_MAGIC, BTREE_MAGIC = 0x061561, 0x053162
HASH_VERSIONS, BTREE_VERSIONS = range(7, 11), range(8, 11)

#: Page types.
P_INVALID, P_HASH_UNSORTED, P_IBTREE, P_LBTREE, P_OVERFLOW, P_HASHMETA, P_HASH = 0, 2, 3, 5, 7, 8, 13

#: Item types on hash pages; a btree's overflow item has H_OFFPAGE's number too.
H_KEYDATA, H_DUPLICATE, H_OFFPAGE, H_OFFDUP = 1, 2, 3, 4

#: Where the array of item offsets begins on a page.
PAGE_HEADER = 26

#: What the stored hash of tells the hash function.
CHARKEY = b"%$sniglet^&\0"

#: The largest item that Berkeley DB keeps on a hash page is a quarter of the page.
BIG_ITEM = 4

#: Files up to this size are read whole.
SNAPSHOT_LIMIT = 8 << 20

#: No key or value may be longer.
ITEM_LIMIT = 64 << 20


#: The factor of that hash function.
FNV_PRIME = 16777619


def hash_fnv(key: bytes) -> int:
    """Berkeley DB's hash function since version 3.1 (Fowler/Noll/Vo)."""
    return hash_one(key, FNV_PRIME, 0)


def hash_torek(key: bytes) -> int:
    """Berkeley DB's older hash function."""
    value = 0
    for byte in key:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


class PageFile:
    """Pages of a file: from memory, or by ``pread`` when the file is large."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.state: Identity | None = None
        self._data = b""
        self._fd = -1
        self._seen = (0, 0)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise TableError(f"open database {path}: {error.strerror}") from error
        try:
            if lock:
                fcntl.flock(fd, lock)
            status = os.fstat(fd)
            self.state = identity(status)
            self._seen = (status.st_mtime_ns, status.st_size)
            self.size = status.st_size
            if self.size <= SNAPSHOT_LIMIT:
                self._data = _read(fd, self.size)
                self.size = len(self._data)
            else:
                fcntl.flock(fd, fcntl.LOCK_UN)
                self._fd, fd = fd, -1
        except BlockingIOError as error:
            raise TableError(f"database {path}: being written") from error
        except OSError as error:
            raise TableError(f"read database {path}: {error.strerror}") from error
        finally:
            if fd >= 0:
                os.close(fd)

    def bytes_at(self, offset: int, size: int) -> bytes:
        if self._fd < 0:
            return self._data[offset : offset + size]
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise TableError(f"read database {self.path}: {error.strerror}") from error

    @property
    def steady(self) -> bool:
        """Whether the content is a copy in memory, that nobody can change."""
        return self._fd < 0

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """Keep writers away from a file that isn't steady; gives whether it is still what was opened."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise TableError(f"database {self.path}: being written") from error
        try:
            status = os.fstat(self._fd)
            yield (status.st_mtime_ns, status.st_size) == self._seen
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _read(fd: int, size: int) -> bytes:
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


class BdbFile:
    """What hash and btree files share: pages, items, overflow chains."""

    def __init__(self, pages: PageFile, order: str, meta: bytes) -> None:
        self.pages = pages
        self.path = pages.path
        self.order = order
        self.page_size: int = struct.unpack_from(order + "I", meta, 20)[0]
        encryption, meta_flags = meta[24], meta[26]
        if self.page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
            raise self.damaged("bad page size")
        if encryption or meta_flags:
            raise TableError(f"database {self.path}: encryption, checksums and partitions are not supported")
        self._header = struct.Struct(order + "8xIIIHHBB")
        self._offsets = [struct.Struct(f"{order}{count}H") for count in range(256)]

    def damaged(self, what: str) -> TableError:
        return TableError(f"database {self.path} is damaged: {what}")

    def page(self, number: int) -> bytes:
        page = self.pages.bytes_at(number * self.page_size, self.page_size)
        if len(page) != self.page_size:
            raise self.damaged(f"no page {number}")
        return page

    def index(self, page: bytes, count: int) -> tuple[int, ...]:
        """The offsets of the first ``count`` items."""
        if PAGE_HEADER + 2 * count > len(page):
            raise self.damaged("too many items on a page")
        form = self._offsets[count] if count < 256 else struct.Struct(f"{self.order}{count}H")
        return form.unpack_from(page, PAGE_HEADER)

    def overflow(self, number: int, length: int) -> bytes:
        """The big item of ``length`` bytes that begins on page ``number``."""
        if length > min(ITEM_LIMIT, self.pages.size):
            raise self.damaged("impossible length of an item")
        parts = []
        left = length
        while left > 0:
            page = self.page(number) if number else b""
            if not page or page[25] != P_OVERFLOW:
                raise self.damaged("overflow item cut short")
            _, _, following, _, used, _, _ = self._header.unpack_from(page)
            if not 0 < used <= min(left, self.page_size - PAGE_HEADER):
                raise self.damaged("bad overflow page")
            parts.append(page[PAGE_HEADER : PAGE_HEADER + used])
            left -= used
            number = following
        return b"".join(parts)

    @cached_property
    def has_nuls(self) -> bool:
        """Whether keys have a NUL at their end, as the first one has it."""
        return next((key.endswith(b"\0") for key, _ in self.items()), False)

    def get(self, key: bytes) -> bytes | None:
        raise TableError(f"{self.path}: no lookups here")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        raise TableError(f"{self.path}: no listing here")

    def close(self) -> None:
        self.pages.close()


class HashFile(BdbFile):
    """A hash file (``hash:``, ``/etc/sasldb2``)."""

    def __init__(self, pages: PageFile, order: str, meta: bytes) -> None:
        super().__init__(pages, order, meta)
        if struct.unpack_from(order + "I", meta, 48)[0]:
            raise TableError(f"database {self.path}: duplicates and subdatabases are not supported")
        self.max_bucket, self._high, self._low = struct.unpack_from(order + "III", meta, 72)
        if not self._low <= self.max_bucket <= min(self._high, pages.size // self.page_size):
            raise self.damaged("bad number of buckets")
        charkey = struct.unpack_from(order + "I", meta, 92)[0]
        self._spares: tuple[int, ...] = struct.unpack_from(order + "32I", meta, 96)
        for function in (hash_fnv, hash_torek):
            if function(CHARKEY) == charkey:
                self._hash = function
                break
        else:
            raise TableError(f"database {self.path}: unknown hash function")
        self._big = self.page_size // BIG_ITEM

    def _chain(self, bucket: int) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """The pages of a bucket, each with the offsets of its items."""
        for page, count in self._pages(bucket):
            yield page, self.index(page, count)

    def _pages(self, bucket: int) -> Iterator[tuple[bytes, int]]:
        """The pages of a bucket, each with the number of its items."""
        number = bucket + self._spares[bucket.bit_length()]
        limit = self.pages.size // self.page_size + 1
        while number:
            # A bucket that nothing ever went into need not exist as a page.
            page = self.pages.bytes_at(number * self.page_size, self.page_size)
            if len(page) != self.page_size:
                return
            _, _, number, count, _, _, kind = self._header.unpack_from(page)
            if kind not in (P_HASH, P_HASH_UNSORTED):
                if kind == P_INVALID and not count:
                    return
                raise self.damaged(f"page of type {kind} in bucket {bucket}")
            limit -= 1
            if limit < 0 or count % 2:
                raise self.damaged(f"bucket {bucket}")
            yield page, count

    def get(self, key: bytes) -> bytes | None:
        code = self._hash(key)
        bucket = code & self._high
        if bucket > self.max_bucket:
            bucket &= self._low
        if len(key) > self._big:
            return self._get_big(key, bucket)
        wanted = b"\x01" + key
        size = len(wanted)
        for page, count in self._pages(bucket):
            where = page.find(wanted, PAGE_HEADER)
            offsets = self.index(page, count) if where >= 0 else ()
            while where >= 0:
                if where in offsets:
                    item = offsets.index(where)
                    end = offsets[item - 1] if item else self.page_size
                    if item % 2 == 0 and end - where == size:
                        return self._item(page, offsets, item + 1)
                where = page.find(wanted, where + 1)
        return None

    def _get_big(self, key: bytes, bucket: int) -> bytes | None:
        for page, offsets in self._chain(bucket):
            for item in range(0, len(offsets), 2):
                offset = offsets[item]
                if offset + 12 > self.page_size or page[offset] != H_OFFPAGE:
                    continue
                first, length = struct.unpack_from(self.order + "II", page, offset + 4)
                if length == len(key) and self.overflow(first, length) == key:
                    return self._item(page, offsets, item + 1)
        return None

    def _item(self, page: bytes, offsets: tuple[int, ...], item: int) -> bytes:
        start = offsets[item]
        end = offsets[item - 1] if item else self.page_size
        if not PAGE_HEADER < start < end <= self.page_size:
            raise self.damaged("items out of order")
        kind = page[start]
        if kind == H_KEYDATA:
            return page[start + 1 : end]
        if kind == H_OFFPAGE and end - start >= 12:
            first, length = struct.unpack_from(self.order + "II", page, start + 4)
            return self.overflow(first, length)
        raise self.damaged(f"item of type {kind}")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for bucket in range(self.max_bucket + 1):
            for page, offsets in self._chain(bucket):
                for item in range(0, len(offsets), 2):
                    yield self._item(page, offsets, item), self._item(page, offsets, item + 1)


class BtreeFile(BdbFile):
    """A btree file (``btree:``)."""

    _DEPTH_LIMIT = 255
    _UNSUPPORTED = 0x01 | 0x02 | 0x20 | 0x40 | 0x80  # duplicates, recno, subdatabases, sorted, compressed

    def __init__(self, pages: PageFile, order: str, meta: bytes) -> None:
        super().__init__(pages, order, meta)
        if struct.unpack_from(order + "I", meta, 48)[0] & self._UNSUPPORTED:
            raise TableError(f"database {self.path}: duplicates and subdatabases are not supported")
        self._root: int = struct.unpack_from(order + "I", meta, 88)[0]

    def _leaf(self, key: bytes | None) -> bytes:
        """The leaf page where ``key`` belongs; the first one for None."""
        number = self._root
        for _ in range(self._DEPTH_LIMIT):
            page = self.page(number)
            _, _, _, count, _, _, kind = self._header.unpack_from(page)
            if kind == P_LBTREE:
                return page
            if kind != P_IBTREE or not count:
                raise self.damaged(f"page of type {kind} in the tree")
            offsets = self.index(page, count)
            low, high = 0, count
            while key is not None and high - low > 1:
                middle = (low + high) // 2
                if self._internal(page, offsets[middle]) <= key:
                    low = middle
                else:
                    high = middle
            if offsets[low] + 8 > self.page_size:
                raise self.damaged("item beyond its page")
            number = struct.unpack_from(self.order + "I", page, offsets[low] + 4)[0]
        raise self.damaged("tree too deep")

    def _internal(self, page: bytes, offset: int) -> bytes:
        if offset + 12 > self.page_size:
            raise self.damaged("item beyond its page")
        length, kind = struct.unpack_from(self.order + "HB", page, offset)
        if kind & 0x7F == H_OFFPAGE:
            if offset + 24 > self.page_size:
                raise self.damaged("item beyond its page")
            return self.overflow(*struct.unpack_from(self.order + "II", page, offset + 16))
        return page[offset + 12 : offset + 12 + length]

    def _entry(self, page: bytes, offset: int) -> bytes:
        if offset + 3 > self.page_size:
            raise self.damaged("item beyond its page")
        length, kind = struct.unpack_from(self.order + "HB", page, offset)
        if kind & 0x7F == H_KEYDATA:
            return page[offset + 3 : offset + 3 + length]
        if kind & 0x7F == H_OFFPAGE and offset + 12 <= self.page_size:
            return self.overflow(*struct.unpack_from(self.order + "II", page, offset + 4))
        raise self.damaged(f"item of type {kind}")

    def get(self, key: bytes) -> bytes | None:
        page = self._leaf(key)
        count = self._header.unpack_from(page)[3]
        offsets = self.index(page, count & ~1)
        low, high = 0, len(offsets) // 2
        while low < high:
            middle = (low + high) // 2
            found = self._entry(page, offsets[2 * middle])
            if found == key:
                if self._deleted(page, offsets, 2 * middle):
                    return None
                return self._entry(page, offsets[2 * middle + 1])
            if found < key:
                low = middle + 1
            else:
                high = middle
        return None

    def _deleted(self, page: bytes, offsets: tuple[int, ...], item: int) -> bool:
        if max(offsets[item], offsets[item + 1]) + 3 > self.page_size:
            raise self.damaged("item beyond its page")
        return bool((page[offsets[item] + 2] | page[offsets[item + 1] + 2]) & 0x80)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        page = self._leaf(None)
        for _ in range(self.pages.size // self.page_size + 1):
            _, _, following, count, _, _, kind = self._header.unpack_from(page)
            if kind != P_LBTREE:
                raise self.damaged(f"page of type {kind} among the leaves")
            offsets = self.index(page, count & ~1)
            for item in range(0, len(offsets), 2):
                key, value = self._entry(page, offsets[item]), self._entry(page, offsets[item + 1])
                if not self._deleted(page, offsets, item):
                    yield key, value
            if not following:
                return
            page = self.page(following)
        raise self.damaged("leaves in a circle")


def open_bdb(path: str, lock: int = fcntl.LOCK_SH) -> HashFile | BtreeFile:
    """Open a hash or btree file.  ``lock`` is for ``flock``; 0 for one who holds the lock."""
    pages = PageFile(path, lock)
    try:
        meta = pages.bytes_at(0, 512)
        if len(meta) == 512:
            for order in "<>":
                magic, version = struct.unpack_from(order + "II", meta, 12)
                if magic == HASH_MAGIC and version in HASH_VERSIONS:
                    return HashFile(pages, order, meta)
                if magic == BTREE_MAGIC and version in BTREE_VERSIONS:
                    return BtreeFile(pages, order, meta)
        raise TableError(f"{path}: not a Berkeley DB hash or btree file that can be read")
    except (TableError, struct.error):
        pages.close()
        raise
