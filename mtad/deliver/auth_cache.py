"""Logins that a server has refused: not tried again with the same password for a while.

:class:`RefusedLogins` keeps them in the table that ``smtp_sasl_auth_cache_name`` names, in the form that
Postfix has there, so that each goes on with what the other left: key ``host;user``, value
``seconds;digest;dsn;reply``.  The digest is Postfix's, too (SHA-1 of the password, in base64): the file is
for ``mail_owner`` alone.  An entry ends with its time, or when another password is tried.

The table must be ``proxy:``, of a type that can be written (``btree``, ``hash``, ``lmdb``), and in
``proxy_write_maps``; ConfigError when it is not.  That a table can't be read or written is only logged.

Postfix counterpart: ``smtp_sasl_auth_cache.c``.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
from base64 import b64encode
from collections.abc import Callable

from mtad.auth.offload import offload
from mtad.config.parameters import Parameters
from mtad.deliver.credentials import Login
from mtad.errors import TableError
from mtad.maillog import MailLog, printable
from mtad.tables.bdb import open_bdb
from mtad.tables.bdb_write import write_hash, writing
from mtad.tables.blocking import Lane
from mtad.tables.btree_write import write_btree
from mtad.tables.lmdb_table import LmdbTable, write_lmdb
from mtad.tables.proxymap import PREFIX, unproxied
from mtad.tables.table import Options
from mtad.wire.server_reply import ServerReply

#: The only code that is remembered.
CODE = 535

NAME = "smtp_sasl_auth_cache_name"

_WRITERS = {"btree": (".db", write_btree), "hash": (".db", write_hash), "lmdb": (".lmdb", write_lmdb)}
_VALUE = re.compile(rb"(\d{1,19});([^;]+);([245]\.\d{1,3}\.\d{1,3});(([0-9]{3})[^\n]*)")


class RefusedLogins:
    """See the module."""

    def __init__(self, p: Parameters, log: MailLog, clock: Callable[[], float]) -> None:
        self._spec = _table(p)
        kind, _, path = self._spec.partition(":")
        suffix, self._write = _WRITERS[kind]
        self._lmdb = kind == "lmdb"
        self._path = os.path.join(p.directory, path) + suffix
        self._life = p.seconds("smtp_sasl_auth_cache_time")
        self._log = log
        self._clock = clock
        self._lane = Lane(self._spec, 1)

    async def find(self, host: str, login: Login) -> ServerReply | None:
        """What ``host`` has answered to this very login, if it was a refusal."""
        key = _key(host, login)
        try:
            value = (await offload(self._lane, self._read)).get(key)
            reply = self._reply(value, login) if value is not None else None
            if value is not None and reply is None:
                await offload(self._lane, lambda: self._change(key, None))
        except TableError as error:
            self._log.warning(f"SASL auth failure map {self._spec}: lookup failed for {_shown(key)}: {error}")
            return None
        return reply

    async def note(self, host: str, login: Login, reply: ServerReply) -> None:
        """``host`` has refused this login."""
        if reply.code != CODE:
            return
        now = int(self._clock())
        value = b"%d;%b;%b;%b" % (now, _digest(login), reply.dsn, b"\n".join(reply.lines))
        key = _key(host, login)
        try:
            await offload(self._lane, lambda: self._change(key, value))
        except TableError as error:
            self._log.warning(f"SASL auth failure map {self._spec}: update failed for {_shown(key)}: {error}")

    def _reply(self, value: bytes, login: Login) -> ServerReply | None:
        """The reply of an entry that counts for this login."""
        parts = _VALUE.match(value)
        if parts is None:
            self._log.warning(f"bad smtp_sasl_auth_cache entry: {_shown(value)}")
            return None
        since, digest, dsn, text, code = parts.groups()
        if int(since) + self._life < self._clock() or not hmac.compare_digest(digest, _digest(login)):
            return None
        return ServerReply(int(code), dsn, (text,))

    def _read(self, lock: int = fcntl.LOCK_SH) -> dict[bytes, bytes]:
        """All entries; none when there is no file yet."""
        if not os.path.exists(self._path):
            return {}
        if self._lmdb:
            table = LmdbTable(self._spec, Options(), self._path)
            try:
                return dict(table.items())
            finally:
                table.close()
        file = open_bdb(self._path, lock)
        try:
            return {_bare(key): _bare(value) for key, value in file.items()}
        finally:
            file.close()

    def _change(self, key: bytes, value: bytes | None) -> None:
        """Set an entry, or remove it; what is too old goes, too."""
        with writing(self._path):
            there = self._read(lock=0)
            entries = {each: found for each, found in there.items() if not self._old(found)}
            entries.pop(key, None)
            if value is not None:
                entries[key] = value
            self._write(self._path, entries.items(), mode=0o600)

    def _old(self, value: bytes) -> bool:
        since = value.partition(b";")[0]
        return not since.isdigit() or int(since) + self._life < self._clock()


def _table(p: Parameters) -> str:
    """The table without its ``proxy:``; raises ConfigError."""
    name = p[NAME]
    if len(name.replace(",", " ").split()) != 1:
        raise p.error(NAME, f"multiple values: {name}", "name one table")
    if not name.startswith(PREFIX):
        raise p.error(NAME, f"{name} must start with {PREFIX}", f"set it to {PREFIX}{name}")
    table = unproxied(name)
    kind, _, path = table.partition(":")
    if kind not in _WRITERS or not path:
        raise p.error(NAME, f"a table {table} can not be written to", f"use one of {', '.join(_WRITERS)}")
    if table not in map(unproxied, p.words("proxy_write_maps")):
        raise p.error(NAME, f'"{name}" may not be written to', f"add {name} to proxy_write_maps")
    return table


def _key(host: str, login: Login) -> bytes:
    return b"%b;%b" % (host.encode(), login.user)


def _digest(login: Login) -> bytes:
    return b64encode(hashlib.sha1(login.password, usedforsecurity=False).digest())


def _bare(stored: bytes) -> bytes:
    return stored.removesuffix(b"\0")


def _shown(data: bytes) -> str:
    return printable(data.decode("utf-8", "surrogateescape"))[:100]
