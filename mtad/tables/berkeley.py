"""``hash:`` and ``btree:``: Postfix's own tables.

``hash:/x`` means the data of ``/x`` whatever its index: the Berkeley DB file ``/x.db``; where there is none
``/x.lmdb`` or ``/x.cdb``; where there is no index at all the text source ``/x``.  Which one stood
in is said by a warning.  A file that changes is read again: one ``stat`` a lookup tells.  While a file
is missing or being written, what was read of it before serves on.

Postfix stores keys and values with or without a NUL at their end, as the platform had it; both are
tried until the first hit tells which it is (``DICT_FLAG_TRY0NULL``, ``DICT_FLAG_TRY1NULL``).

Postfix counterpart: ``dict_db(3)``; for the order of indexes the migration support of Postfix 3.11.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mtad.errors import TableError
from mtad.tables.bdb import BtreeFile, HashFile, open_bdb
from mtad.tables.table import LocalTable, Options, state_of

_ATTEMPTS = 3


class BerkeleyTable(LocalTable):
    """A ``.db`` file, reopened when it changes."""

    def __init__(self, spec: str, options: Options, path: str) -> None:
        super().__init__(spec, options)
        self._path = path
        self._file: HashFile | BtreeFile = open_bdb(path)
        self._with_nul = self._without_nul = True
        self._warn_if_old(path)

    def _warn_if_old(self, path: str) -> None:
        source = path.removesuffix(".db")
        try:
            made, changed = os.stat(path).st_mtime, os.stat(source).st_mtime
        except OSError:
            return
        if changed > made + 100:
            self.options.warn(f"database {path} is older than source file {source}")

    def _refresh(self) -> None:
        """Open the file anew when it changed."""
        state = state_of(self._path)
        file = self._file
        if state is None or state == file.pages.state:
            return
        try:
            self._file = open_bdb(self._path, wait=False)
        except TableError:
            if not file.pages.steady:
                raise
            return
        file.close()

    def get(self, key: bytes) -> bytes | None:
        for _ in range(_ATTEMPTS):
            self._refresh()
            file = self._file
            if file.pages.steady:
                return self._find(file, key)
            with file.pages.reading() as same:
                if same:
                    return self._find(file, key)
        raise TableError(f"database {self._path}: keeps changing")

    def _find(self, file: HashFile | BtreeFile, key: bytes) -> bytes | None:
        value = None
        if self._with_nul:
            value = file.get(key + b"\0")
            if value is not None:
                self._without_nul = False
        if value is None and self._without_nul:
            value = file.get(key)
            if value is not None:
                self._with_nul = False
        return value if value is None else value.partition(b"\0")[0]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._file.items():
            yield key.partition(b"\0")[0], value.partition(b"\0")[0]

    def close(self) -> None:
        self._file.close()
