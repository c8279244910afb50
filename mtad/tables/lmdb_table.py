"""``lmdb:``: OpenLDAP's memory-mapped database, by the ``lmdb`` package (extra ``mtad[lmdb]``).

Keys and values have a NUL at their end, as Postfix writes them; without one is tried, too.  The file is
opened anew when another one takes its place.  :func:`write_lmdb` makes a whole new one and puts it in
place by ``rename``.  Raises :class:`~mtad.errors.TableError`, and :class:`~mtad.errors.ConfigError` when
the package is not installed.

Postfix counterpart: ``dict_lmdb(3)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from mtad.errors import ConfigError, TableError
from mtad.tables.bdb_write import replacing
from mtad.tables.berkeley import warn_if_stale
from mtad.tables.table import LocalTable, Options

#: Room for a table that is being written (Postfix's ``lmdb_map_size``), and more for a large one.
_MAP_SIZE = 16 << 20
_ENTRY_ROOM = 64


def _package() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ConfigError(
            "unsupported dictionary type: lmdb", remedy='install the package: pip install "mtad[lmdb]"'
        ) from error
    return lmdb


class LmdbTable(LocalTable):
    """An ``.lmdb`` file, read without locks: writers never change a page that a reader may see."""

    def __init__(self, spec: str, options: Options, path: str) -> None:
        super().__init__(spec, options)
        self._lmdb = _package()
        self._path = path
        self._with_nul, self._without_nul = options.nulls
        self._inode = (0, 0)
        self._open()
        warn_if_stale(path, path.removesuffix(".lmdb"), options)

    def _open(self) -> None:
        try:
            status = os.stat(self._path)
            self._environment = self._lmdb.open(
                self._path, subdir=False, readonly=True, lock=False, create=False, max_readers=1024
            )
        except (OSError, self._lmdb.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise TableError(f"open database {self._path}: {reason}") from error
        self._inode = (status.st_dev, status.st_ino)

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
        except OSError:
            return
        if (status.st_dev, status.st_ino) != self._inode:
            self._environment.close()
            self._open()

    def get(self, key: bytes) -> bytes | None:
        self._refresh()
        if len(key) >= self._environment.max_key_size():
            return None
        value: bytes | None = None
        try:
            with self._environment.begin() as transaction:
                if self._with_nul:
                    value = transaction.get(key + b"\0")
                    self._without_nul &= value is None
                if value is None and self._without_nul and key:
                    value = transaction.get(key)
                    self._with_nul &= value is None
        except self._lmdb.Error as error:
            raise TableError(f"read database {self._path}: {error}") from error
        return value if value is None else value.partition(b"\0")[0]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        self._refresh()
        with self._environment.begin() as transaction:
            for key, value in transaction.cursor():
                yield key.partition(b"\0")[0], value.partition(b"\0")[0]

    def close(self) -> None:
        self._environment.close()


def write_lmdb(
    path: str,
    items: Iterable[tuple[bytes, bytes]],
    *,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
) -> None:
    """Make ``path`` an LMDB file of ``items``.

    ``mode`` and ``owner`` (user and group ID) are for a new file; an existing one keeps its own.
    """
    lmdb = _package()
    entries = dict(items)
    content = sum(len(key) + len(value) + _ENTRY_ROOM for key, value in entries.items())
    map_size = max(_MAP_SIZE, 4 * content)
    with replacing(path, mode=mode, owner=owner) as out:
        try:
            environment = lmdb.open(out.name, subdir=False, map_size=map_size, lock=False, sync=False)
            try:
                with environment.begin(write=True) as transaction:
                    for key, value in entries.items():
                        transaction.put(key, value)
            finally:
                environment.close()
        except lmdb.Error as error:
            raise TableError(f"write {path}: {error}") from error
