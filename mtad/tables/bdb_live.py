"""A Berkeley DB file that may change while it is in use.

:class:`LiveBdb` opens the file anew when it changed, which one ``stat`` a lookup tells.  While the file
is missing or being written, what was read of it before serves on.  Raises
:class:`~mtad.errors.TableError`.

Postfix counterpart: ``dict_changed(3)``, after which its daemons start anew, and ``dict_db(3)``'s locks.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator

from mtad.errors import TableError
from mtad.tables.bdb import BtreeFile, HashFile, open_bdb
from mtad.tables.table import Identity, Watch, no_warning

_ATTEMPTS = 3


class LiveBdb:
    """The present content of the file ``path``."""

    def __init__(self, path: str, warn: Callable[[str], None] = no_warning) -> None:
        self.path = path
        self._file: HashFile | BtreeFile | None = None
        self._lock = fcntl.LOCK_SH
        self._watch = Watch(path, self._load, warn)
        self._lock |= fcntl.LOCK_NB  # once there is something to go on with

    def _load(self) -> Identity | None:
        file = open_bdb(self.path, self._lock)
        self.close()
        self._file = file
        return file.pages.state

    def _refresh(self) -> HashFile | BtreeFile:
        self._watch.refresh()
        if self._file is None:
            raise TableError(f"database {self.path}: closed")
        return self._file

    def get(self, key: bytes) -> bytes | None:
        """The value for exactly this key."""
        return self._read(lambda file: file.get(key))

    def get_string(self, key: bytes, nulls: tuple[bool, bool]) -> bytes | None:
        """The value for ``key``, both C strings: stored with a NUL at the end, or without.

        ``nulls`` says which of both to try; where both may be, the file's first key tells.
        """
        value = self._read(lambda file: _get_string(file, key, nulls))
        return value if value is None else value.partition(b"\0")[0]

    def _read(self, ask: Callable[[HashFile | BtreeFile], bytes | None]) -> bytes | None:
        for _ in range(_ATTEMPTS):
            file = self._refresh()
            if file.pages.steady:
                return ask(file)
            with file.pages.reading() as same:
                if same:
                    return ask(file)
        raise TableError(f"database {self.path}: keeps changing")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, in Berkeley DB's own order."""
        return self._refresh().items()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _get_string(file: HashFile | BtreeFile, key: bytes, nulls: tuple[bool, bool]) -> bytes | None:
    with_nul, without_nul = nulls
    if with_nul and (not without_nul or file.has_nuls):
        return file.get(key + b"\0")
    return file.get(key)
