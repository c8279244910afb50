"""The kinds of file that ``sasldb2`` comes in: Berkeley DB (Debian), GDBM (Fedora, Arch), LMDB.

:func:`kind_of` tells by a file's first bytes which it is.  A :class:`Kind` reads one and writes one; what is
read is the file's present content, whoever changed it.  Raises :class:`~mtad.errors.TableError`.

A change makes a new file that takes the old one's place, so that a crash leaves the old or the new one; where
the directory forbids that to us but the file does not, it is written in place, as Cyrus itself does.  LMDB
has transactions of its own.

Counterpart: libsasl's ``db_berkeley.c``, ``db_gdbm.c``, ``db_lmdb.c``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from mtad.errors import TableError
from mtad.tables.bdb import HashFile, open_bdb
from mtad.tables.bdb_live import LiveBdb
from mtad.tables.bdb_write import hash_content, replacing
from mtad.tables.gdbm import gdbm_content, is_gdbm, read_gdbm
from mtad.tables.table import Identity, Watch, identity, no_warning

#: Where an LMDB file has its magic number, and that number.
_LMDB_PLACE, _LMDB_MAGIC = 16, 0xBEEFC0DE

#: Room for a user database, and the largest file that is read whole.
_MAP_SIZE = 16 << 20
_SIZE_LIMIT = 256 << 20

Changes = Mapping[bytes, bytes | None]


class Reader(Protocol):
    """An open file."""

    def get(self, key: bytes) -> bytes | None: ...

    def items(self) -> Iterator[tuple[bytes, bytes]]: ...

    def close(self) -> None: ...


class Kind(Protocol):
    """What can be done with files of one kind.  ``content``, ``change``: by the one who holds the lock."""

    name: str

    def open(self, path: str) -> Reader: ...

    def content(self, path: str) -> dict[bytes, bytes]: ...

    def change(self, path: str, changes: Changes, mode: int, owner: tuple[int, int] | None) -> None: ...


def kind_of(path: str) -> Kind:
    """The kind of the file at ``path``; Berkeley DB for one that is not there yet or is empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(_LMDB_PLACE + 4)
    except FileNotFoundError:
        return BERKELEY
    except OSError as error:
        raise TableError(f"open database {path}: {error.strerror}") from error
    if is_gdbm(head):
        return GDBM
    if any(int.from_bytes(head[_LMDB_PLACE:], order) == _LMDB_MAGIC for order in ("little", "big")):
        return LMDB
    return BERKELEY


def put_content(path: str, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """Make ``content`` the file's."""
    if os.access(os.path.dirname(os.path.realpath(path)), os.W_OK) or not os.access(path, os.W_OK):
        with replacing(path, mode=mode, owner=owner) as out:
            out.write(content)
        return
    try:
        with open(path, "r+b") as out:
            out.write(content)
            out.truncate()
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise TableError(f"write {path}: {error.strerror}") from error


def _merged(merged: dict[bytes, bytes], changes: Changes) -> dict[bytes, bytes]:
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


class _Berkeley:
    name = "Berkeley DB"

    def open(self, path: str) -> Reader:
        return LiveBdb(path)

    def change(self, path: str, changes: Changes, mode: int, owner: tuple[int, int] | None) -> None:
        merged = _merged(self.content(path), changes)
        put_content(path, hash_content(merged.items()), mode, owner)

    def content(self, path: str) -> dict[bytes, bytes]:
        if not os.path.exists(path) or os.stat(path).st_size == 0:
            return {}
        file = open_bdb(path, lock=0)
        try:
            if not isinstance(file, HashFile):
                raise TableError(f"{path}: not a Berkeley DB hash file")
            return dict(file.items())
        finally:
            file.close()


class _Gdbm:
    name = "GDBM"

    def open(self, path: str) -> Reader:
        return _GdbmReader(path)

    def change(self, path: str, changes: Changes, mode: int, owner: tuple[int, int] | None) -> None:
        merged = _merged(self.content(path), changes)
        put_content(path, gdbm_content(merged.items()), mode, owner)

    def content(self, path: str) -> dict[bytes, bytes]:
        return _read_gdbm(path)[0]


class _GdbmReader:
    """All of a file, read again when it changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._entries: dict[bytes, bytes] = {}
        self._watch = Watch(path, self._load, no_warning)

    def _load(self) -> Identity | None:
        self._entries, state = _read_gdbm(self._path)
        return state

    def get(self, key: bytes) -> bytes | None:
        self._watch.refresh()
        return self._entries.get(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        self._watch.refresh()
        return iter(self._entries.items())

    def close(self) -> None:
        self._entries = {}


def _read_gdbm(path: str) -> tuple[dict[bytes, bytes], Identity | None]:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > _SIZE_LIMIT:
                raise TableError(f"{path}: too large for a user database")
            return read_gdbm(file.read(), path), identity(status)
    except OSError as error:
        raise TableError(f"open database {path}: {error.strerror}") from error


class _Lmdb:
    name = "LMDB"

    def open(self, path: str) -> Reader:
        return _LmdbReader(path)

    def change(self, path: str, changes: Changes, mode: int, owner: tuple[int, int] | None) -> None:
        def work(environment: Any) -> None:
            with environment.begin(write=True) as transaction:
                for key, value in changes.items():
                    if value is None:
                        transaction.delete(key)
                    else:
                        transaction.put(key, value)

        _in_lmdb(path, work, readonly=False)

    def content(self, path: str) -> dict[bytes, bytes]:
        return dict(_LmdbReader(path).items())


class _LmdbReader:
    """Opened for each question: users are few, and whoever changes the file may replace it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        def work(environment: Any) -> bytes | None:
            if not 0 < len(key) <= environment.max_key_size():
                return None
            with environment.begin() as transaction:
                value: bytes | None = transaction.get(key)
            return value

        found: bytes | None = _in_lmdb(self._path, work)
        return found

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        def work(environment: Any) -> list[tuple[bytes, bytes]]:
            with environment.begin() as transaction:
                return [(bytes(key), bytes(value)) for key, value in transaction.cursor()]

        return iter(_in_lmdb(self._path, work))

    def close(self) -> None:
        """Nothing stays open."""


def _in_lmdb(path: str, work: Callable[[Any], Any], *, readonly: bool = True) -> Any:
    """The result of ``work`` on the open file; raises TableError."""
    try:
        import lmdb
    except ImportError as error:
        raise TableError(f'{path}: needs the lmdb package: pip install "mtad[lmdb]"') from error
    lock = not readonly or os.access(f"{path}-lock", os.W_OK)
    try:
        size = max(_MAP_SIZE, 2 * os.stat(path).st_size)
        environment = lmdb.open(
            path, subdir=False, readonly=readonly, lock=lock, create=False, map_size=size, max_readers=126
        )
        try:
            return work(environment)
        finally:
            environment.close()
    except (lmdb.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TableError(f"database {path}: {reason}") from error


BERKELEY: Kind = _Berkeley()
GDBM: Kind = _Gdbm()
LMDB: Kind = _Lmdb()
KINDS = (BERKELEY, GDBM, LMDB)
