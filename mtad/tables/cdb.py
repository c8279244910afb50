"""``cdb:``: D. J. Bernstein's constant database, read and written.

Keys and values are as Postfix stores them, with or without a NUL at their end.  The file is read whole
and again when another one takes its place; :func:`write_cdb` makes a new one and puts it in place by
``rename``.  Raises :class:`~mtad.errors.TableError`.

Postfix counterpart: ``dict_cdb(3)``; the format: https://cr.yp.to/cdb/cdb.txt.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator

from mtad.errors import TableError
from mtad.tables.bdb_write import replacing
from mtad.tables.berkeley import warn_if_stale
from mtad.tables.hashing import hash_all, hash_one
from mtad.tables.table import Identity, LocalTable, Options, Watch, identity

_PAIR = struct.Struct("<II")
_HEADER_SIZE = 2048
_FACTOR, _START = 33, 5381


class CdbTable(LocalTable):
    """A ``.cdb`` file."""

    def __init__(self, spec: str, options: Options, path: str) -> None:
        super().__init__(spec, options)
        self._path = path
        self._data = b""
        self._with_nul, self._without_nul = options.nulls
        self._watch = Watch(path, self._load, options.warn)
        warn_if_stale(path, path.removesuffix(".cdb"), options)

    def _load(self) -> Identity | None:
        try:
            with open(self._path, "rb") as file:
                state = identity(os.fstat(file.fileno()))
                data = file.read()
        except OSError as error:
            raise TableError(f"open database {self._path}: {error.strerror}") from error
        if len(data) < _HEADER_SIZE:
            raise TableError(f"database {self._path} is damaged: too short")
        self._data = data
        return state

    def get(self, key: bytes) -> bytes | None:
        self._watch.refresh()
        value = self._find(key + b"\0") if self._with_nul else None
        if value is not None:
            self._without_nul = False
        elif self._without_nul:
            value = self._find(key)
            if value is not None:
                self._with_nul = False
        return value if value is None else value.partition(b"\0")[0]

    def _find(self, key: bytes) -> bytes | None:
        code = hash_one(key, _FACTOR, _START)
        try:
            table, slots = _PAIR.unpack_from(self._data, 8 * (code & 255))
            for step in range(slots):
                slot = (code >> 8) + step
                found, position = _PAIR.unpack_from(self._data, table + 8 * (slot % slots))
                if not position:
                    return None
                if found == code:
                    stored, value = self._record(position)
                    if stored == key:
                        return value
        except struct.error as error:
            raise TableError(f"database {self._path} is damaged") from error
        return None

    def _record(self, position: int) -> tuple[bytes, bytes]:
        key_size, size = _PAIR.unpack_from(self._data, position)
        start = position + 8
        middle, end = start + key_size, start + key_size + size
        if end > len(self._data):
            raise TableError(f"database {self._path} is damaged: record beyond its end")
        return self._data[start:middle], self._data[middle:end]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        end = min(_PAIR.unpack_from(self._data, 8 * number)[0] for number in range(256))
        position = _HEADER_SIZE
        while position < end:
            key_size, size = _PAIR.unpack_from(self._data, position)
            key, value = self._record(position)
            yield key.partition(b"\0")[0], value.partition(b"\0")[0]
            position += 8 + key_size + size


def write_cdb(
    path: str,
    items: Iterable[tuple[bytes, bytes]],
    *,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
) -> None:
    """Make ``path`` a CDB file of ``items`` (of two with one key the later counts).

    ``mode`` and ``owner`` (user and group ID) are for a new file; an existing one keeps its own.
    """
    with replacing(path, mode=mode, owner=owner) as out:
        out.write(bytes(_HEADER_SIZE))
        position = _HEADER_SIZE
        tables: list[list[tuple[int, int]]] = [[] for _ in range(256)]
        content = dict(items)
        for code, (key, value) in zip(hash_all(list(content), _FACTOR, _START), content.items(), strict=True):
            out.write(_PAIR.pack(len(key), len(value)) + key + value)
            tables[code & 255].append((code, position))
            position += 8 + len(key) + len(value)
            if position > 0xFFFFFFFF:
                raise TableError(f"write {path}: more than a CDB file can hold")
        header = []
        for entries in tables:
            slots: list[tuple[int, int]] = [(0, 0)] * (2 * len(entries))
            for code, where in entries:
                slot = (code >> 8) % len(slots)
                while slots[slot][1]:
                    slot = (slot + 1) % len(slots)
                slots[slot] = (code, where)
            header.append(_PAIR.pack(position, len(slots)))
            out.write(b"".join(_PAIR.pack(*slot) for slot in slots))
            position += 8 * len(slots)
        out.seek(0)
        out.write(b"".join(header))
