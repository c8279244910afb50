"""``/etc/sasldb2``: the users of Cyrus SASL, in whatever format the host's build of Cyrus keeps them.

:class:`SaslDb` reads and changes it.  A key is ``user NUL realm NUL property``, a value is the bare secret:
the password itself for ``userPassword``.  A change is made under a lock, with the file's owner and mode
kept; a new file is Berkeley DB, as Debian's, belongs to the group ``sasl`` where there is one, and nobody
else may read it.  Raises :class:`~mtad.errors.TableError`; secrets are in no message and no ``repr``.

Counterpart: libsasl's ``sasldb.c``, ``allockey.c``; :mod:`mtad.tables.sasldb_formats` has the formats.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Mapping
from typing import NamedTuple

from mtad.errors import TableError
from mtad.tables.bdb_write import writing
from mtad.tables.sasldb_formats import Kind, Reader, kind_of

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
        self._kind: Kind | None = None
        self._reader: Reader | None = None
        self._inode = (0, 0)

    @property
    def format(self) -> str:
        """What kind of file it is, or would become."""
        return kind_of(self.path).name

    def get(self, user: str, realm: str, name: str = PASSWORD) -> bytes | None:
        """The property's value, or None for an unknown user."""
        try:
            key = _key(user, realm, name)
        except TableError:
            return None
        return self._open().get(key)

    def list(self) -> list[Entry]:
        """All properties of all users, in the file's order."""
        entries = []
        for key, _ in self._open().items():
            parts = key.decode("utf-8", "surrogateescape").split("\0")
            if len(parts) == 3:
                entries.append(Entry(*parts))
        return entries

    def set(self, user: str, realm: str, value: bytes, name: str = PASSWORD) -> None:
        """Set a property, of a user who may be new."""
        self.change(user, realm, {name: value})

    def change(self, user: str, realm: str, values: Mapping[str, bytes | None]) -> None:
        """Set these properties of a user, who may be new; None removes one.  All or none is done."""
        changes = {_key(user, realm, name): value for name, value in values.items()}
        with writing(self.path):
            self._change(changes)

    def replace(self, user: str, realm: str, name: str, old: bytes, new: bytes) -> bool:
        """Set a property that is ``old`` to ``new``; whether it was."""
        key = _key(user, realm, name)
        with writing(self.path):
            if kind_of(self.path).content(self.path).get(key) != old:
                return False
            self._change({key: new})
        return True

    def delete(self, user: str, realm: str) -> bool:
        """Remove a user with all properties; whether there was one."""
        if not os.path.exists(self.path):
            return False
        with writing(self.path):
            prefix = _key(user, realm, "")
            content = kind_of(self.path).content(self.path)
            theirs = [key for key in content if key.startswith(prefix)]
            if not theirs:
                return False
            self._change(dict.fromkeys(theirs))
        return True

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self) -> Reader:
        """The file as it is now: another kind of file may have taken its place."""
        try:
            status = os.stat(self.path)
            inode = (status.st_dev, status.st_ino)
        except OSError:
            inode = self._inode
        if self._reader is None or inode != self._inode:
            kind = kind_of(self.path)
            if self._reader is None or kind is not self._kind:
                self.close()
                self._reader = kind.open(self.path)
            self._kind, self._inode = kind, inode
        return self._reader

    def _change(self, changes: Mapping[bytes, bytes | None]) -> None:
        group = _group()
        mode, owner = (0o640, None) if group is None else (0o660, (os.geteuid(), group))
        kind_of(self.path).change(self.path, changes, mode, owner)


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
