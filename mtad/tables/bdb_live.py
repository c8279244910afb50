"""A Berkeley DB file that may change while it is in use.

:class:`LiveBdb` opens the file anew when it changed, which one ``stat`` a lookup tells.  While the file
is missing or being written, what was read of it before serves on.  Raises
:class:`~mtad.errors.TableError`.

Postfix counterpart: ``dict_changed(3)``, after which its daemons start anew, and ``dict_db(3)``'s locks.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator

from mtad.errors import TableError
from mtad.tables.bdb import BtreeFile, HashFile, open_bdb
from mtad.tables.table import Identity, Watch, no_warning

_ATTEMPTS = 3

#: Largest file that is made a dictionary of: some 20,000 addresses, ten milliseconds.
_WHOLE_LIMIT = 1 << 20


class LiveBdb:
    """The present content of the file ``path``."""

    def __init__(self, path: str, warn: Callable[[str], None] = no_warning) -> None:
        self.path = path
        self._file: HashFile | BtreeFile | None = None
        self._known: dict[bytes, bytes | None] = {}
        self.complete = False  # known() has all there is
        self._lock = fcntl.LOCK_SH
        self._watch = Watch(path, self._load, warn)
        self._lock |= fcntl.LOCK_NB  # once there is something to go on with

    def _load(self) -> Identity | None:
        file = open_bdb(self.path, self._lock)
        self.close()
        self._known, self.complete = {}, False
        self._file = file
        return file.pages.state

    def _refresh(self) -> HashFile | BtreeFile:
        self._watch.refresh()
        if self._file is None:
            raise TableError(f"database {self.path}: closed")
        return self._file

    def known(self) -> dict[bytes, bytes | None]:
        """A place for what was asked of the present content; a new one for each state of the file."""
        watch = self._watch
        if not watch.pause or time.monotonic() >= watch.again:
            watch.refresh()
        return self._known

    def read_whole(self, nulls: tuple[bool, bool]) -> None:
        """Make :meth:`known` complete, in the terms of :meth:`get_string`, if the file is small."""
        file = self._refresh()
        if file.pages.size > _WHOLE_LIMIT or not file.pages.steady:
            return
        with_nul = nulls[0] and (not nulls[1] or file.has_nuls)
        self._known = {
            key[:-1] if with_nul else key: value.partition(b"\0")[0]
            for key, value in file.items()
            if key[-1:] == b"\0" or not with_nul
        }
        self.complete = True

    @property
    def steady(self) -> bool:
        """Whether the present content is in memory."""
        return self._file is not None and self._file.pages.steady

    def get(self, key: bytes) -> bytes | None:
        """The value for exactly this key."""
        return self._read(lambda file: file.get(key))

    def get_string(self, key: bytes, nulls: tuple[bool, bool]) -> bytes | None:
        """The value for ``key``, both C strings: stored with a NUL at the end, or without.

        ``nulls`` says which of both to try; where both may be, the file's first key tells.
        """
        file = self._file
        if file is not None and file.pages.steady:
            self.known()
            value = _get_string(self._file or file, key, nulls)
        else:
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
