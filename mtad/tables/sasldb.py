"""``/etc/sasldb2``: the users of Cyrus SASL, in the Berkeley DB format of Debian's build.

:class:`SaslDb` reads and changes it.  A key is ``user NUL realm NUL property``, a value is the bare secret:
the password itself for ``userPassword``.  A change rewrites the file whole, under a lock, with the
file's owner and mode kept; a new file belongs to the group ``sasl`` where there is one, and nobody
else may read it.  Raises :class:`~mtad.errors.TableError`; secrets are in no message and no ``repr``.

Counterpart: libsasl's ``db_berkeley.c``, ``sasldb.c``.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from typing import NamedTuple

from mtad.errors import TableError
from mtad.tables.bdb import HashFile, open_bdb
from mtad.tables.bdb_live import LiveBdb
from mtad.tables.bdb_write import write_hash, writing

DEFAULT_PATH = "/etc/sasldb2"
PASSWORD = "userPassword"
_GROUP = "sasl"


class Entry(NamedTuple):
    """One property of one user."""

    user: str
    realm: str
    name: str


class SaslDb:
    """The file ``path``, which need not exist yet."""

    def __init__(self, path: str = DEFAULT_PATH) -> None:
        self.path = path
        self._db: LiveBdb | None = None

    def get(self, user: str, realm: str, name: str = PASSWORD) -> bytes | None:
        """The property's value, or None for an unknown user."""
        try:
            key = _key(user, realm, name)
        except TableError:
            return None
        if self._db is None:
            self._db = LiveBdb(self.path)
        return self._db.get(key)

    def list(self) -> list[Entry]:
        """All properties of all users, in the file's order."""
        if self._db is None:
            self._db = LiveBdb(self.path)
        entries = []
        for key, _ in self._db.items():
            parts = key.decode("utf-8", "surrogateescape").split("\0")
            if len(parts) == 3:
                entries.append(Entry(*parts))
        return entries

    def set(self, user: str, realm: str, value: bytes, name: str = PASSWORD) -> None:
        """Set a property, of a user who may be new."""
        key = _key(user, realm, name)
        with writing(self.path):
            entries = dict(self._items())
            entries[key] = value
            self._write(entries)

    def delete(self, user: str, realm: str) -> bool:
        """Remove a user with all properties; whether there was one."""
        prefix = _key(user, realm, "")
        with writing(self.path):
            entries = dict(self._items())
            kept = {key: value for key, value in entries.items() if not key.startswith(prefix)}
            if len(kept) == len(entries):
                return False
            self._write(kept)
        return True

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        """The present content, for one who holds the lock."""
        if not os.path.exists(self.path) or os.stat(self.path).st_size == 0:
            return
        file = open_bdb(self.path, lock=0)
        try:
            if not isinstance(file, HashFile):
                raise TableError(f"{self.path}: not a Berkeley DB hash file")
            yield from file.items()
        finally:
            file.close()

    def _write(self, entries: dict[bytes, bytes]) -> None:
        group = _group()
        if group is None:
            write_hash(self.path, entries.items(), mode=0o640)
        else:
            write_hash(self.path, entries.items(), mode=0o660, owner=(os.geteuid(), group))


def _key(user: str, realm: str, name: str) -> bytes:
    if not user or "\0" in user + realm + name:
        raise TableError("bad user name or realm")
    return f"{user}\0{realm}\0{name}".encode("utf-8", "surrogateescape")


def _group() -> int | None:
    """The group that may read a new file, when we may give the file to it."""
    try:
        number = grp.getgrnam(_GROUP).gr_gid
    except KeyError:
        return None
    return number if os.geteuid() == 0 or number in os.getgroups() else None
