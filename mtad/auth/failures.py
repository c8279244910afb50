"""Guessing ends: a login that failed too often from one network is locked there for a while.

:class:`FailureLimit` counts pairs of login and network: nobody can lock out an owner who is elsewhere.
After ``mtad_auth_failure_limit`` failures, none more than ``mtad_auth_failure_time`` after the one before,
the pair is locked for that time: right and wrong passwords get the same answer, and no back end is asked.  A
success forgets the failures.  Names that do not exist count like others.  Networks are those of
``smtpd_client_ipv4_prefix_length`` and ``smtpd_client_ipv6_prefix_length``, the latter not below /64, which
one client may have to itself.

Many back ends take ``alice``, ``Alice`` and ``alice@any.where`` for one account.  So that a guesser gains
little by that, all logins that differ only so are locked once :data:`SPELLINGS` of them have failed.

The counts are in a database of ``mtad_queue_directory``, opened when first needed: all processes share them,
and they outlive a restart.  When it can't be used, nothing is locked, and the log says so.  Raises nothing.

Postfix counterpart: none; ``anvil(8)`` counts by client alone.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mtad.auth.names import printable_name
from mtad.config.parameters import Parameters
from mtad.maillog import MailLog

FILE = "auth-failures"

#: Pairs at most; the oldest are forgotten first.
CAPACITY = 50_000

#: Seconds to wait for another process that writes, which takes microseconds.
_PATIENCE = 0.05

_LOGIN_LIMIT = 100

#: So many logins of one local part may not have failed.
SPELLINGS = 5

#: The tables: failures of logins, and how many logins of one local part have failed.
_EXACT, _ALIKE = "failures", "alike"

_SCHEMA = "".join(
    f"""
CREATE TABLE IF NOT EXISTS {table}
  (pair BLOB PRIMARY KEY, login TEXT, network TEXT, count INTEGER, last REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {index} ON {table} (last);
"""
    for table, index in ((_EXACT, "by_age"), (_ALIKE, "alike_by_age"))
)

_COUNT = """
INSERT INTO {table} VALUES (?1, ?2, ?3, 1, ?4) ON CONFLICT (pair) DO UPDATE
SET count = CASE WHEN ?4 - last < ?5 THEN count + 1 ELSE 1 END, last = ?4 RETURNING count
"""


@dataclass(frozen=True, slots=True)
class Locked:
    """A pair that is locked ``until`` then (seconds since 1970), after ``count`` failures."""

    login: str
    network: str
    count: int
    until: float


class FailureLimit:
    """See the module.  False when nothing is limited."""

    def __init__(self, p: Parameters, log: MailLog, clock: Callable[[], float] = time.time) -> None:
        self._limit = p.number("mtad_auth_failure_limit")
        self._life = p.seconds("mtad_auth_failure_time")
        self._path = os.path.join(p["mtad_queue_directory"], FILE)
        self._prefixes = (
            p.number("smtpd_client_ipv4_prefix_length"),
            min(p.number("smtpd_client_ipv6_prefix_length"), 64),
        )
        self._log = log
        self._clock = clock
        self._database: sqlite3.Connection | None = None

    def __bool__(self) -> bool:
        return self._limit > 0

    def locked(self, login: bytes, address: str) -> bool:
        """Whether nobody at ``address`` may try this login now."""
        network, since = self._network(address), self._clock() - self._life
        try:
            database = self._open()
            for table, name, limit in ((_EXACT, login, self._limit), (_ALIKE, _local(login), SPELLINGS)):
                row = database.execute(
                    f"SELECT 1 FROM {table} WHERE pair = ? AND count >= ? AND last > ?",
                    (_pair(name, network), limit, since),
                )
                if row.fetchone():
                    return True
        except sqlite3.Error as error:
            self._complain(error)
        return False

    def settle(self, login: bytes, address: str, *, right: bool) -> bool:
        """Count how an attempt ended; whether the client may hear it.

        Not when the login has been locked meanwhile: however many attempts are under way at once, no more of
        them than the limit tell anything.
        """
        if self.locked(login, address):
            return False
        (self.succeeded if right else self.failed)(login, address)
        return True

    def failed(self, login: bytes, address: str) -> None:
        """The login failed from there."""
        network = self._network(address)
        try:
            with self._open() as database:
                fresh = self._count(database, _EXACT, login, _shown(login), network)
                if fresh:
                    self._count(database, _ALIKE, _local(login), shown_alike(login), network)
        except sqlite3.Error as error:
            self._complain(error)

    def _count(self, database: sqlite3.Connection, table: str, name: bytes, shown: str, network: str) -> bool:
        """One more; whether it is the first."""
        pair, now = _pair(name, network), self._clock()
        limit = self._limit if table == _EXACT else SPELLINGS
        database.execute(f"DELETE FROM {table} WHERE last < ?", (now - self._life,))
        known = database.execute(f"SELECT 1 FROM {table} WHERE pair = ?", (pair,)).fetchone()
        found = database.execute(_COUNT.format(table=table), (pair, shown, network, now, self._life))
        count = found.fetchone()[0]
        if known is None:
            database.execute(
                f"DELETE FROM {table} WHERE pair IN (SELECT pair FROM {table} ORDER BY last "
                f"LIMIT max(0, (SELECT count(*) FROM {table}) - ?))",
                (CAPACITY,),
            )
        if count == limit:
            self._log.warning(
                f"SASL: login {shown} is locked for clients in {network} after {count} failures, "
                f"for {self._life} seconds"
            )
        return known is None

    def succeeded(self, login: bytes, address: str) -> None:
        """The login succeeded from there."""
        try:
            database = self._open()
            pair = (_pair(login, self._network(address)),)
            if database.execute("SELECT 1 FROM failures WHERE pair = ? AND count > 0", pair).fetchone():
                with database:  # that it has failed is still known
                    database.execute("UPDATE failures SET count = 0 WHERE pair = ?", pair)
        except sqlite3.Error as error:
            self._complain(error)

    def now_locked(self) -> Iterator[Locked]:
        """All pairs that are locked now, the last one first; nothing is made or changed."""
        if not self or not os.path.exists(self._path):
            return
        since = self._clock() - self._life
        try:
            database = sqlite3.connect(f"file:{self._path}?mode=ro", timeout=_PATIENCE, uri=True)
            try:
                rows = database.execute(
                    f"SELECT login, network, count, last FROM {_EXACT} WHERE count >= ?1 AND last > ?3 "
                    f"UNION ALL "
                    f"SELECT login, network, count, last FROM {_ALIKE} WHERE count >= ?2 AND last > ?3 "
                    "ORDER BY last DESC",
                    (self._limit, SPELLINGS, since),
                ).fetchall()
            finally:
                database.close()
        except sqlite3.Error as error:
            self._complain(error)
            return
        for login, network, count, last in rows:
            yield Locked(login, network, count, last + self._life)

    def _network(self, address: str) -> str:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return address
        length = self._prefixes[parsed.version == 6]
        return str(ipaddress.ip_network(f"{parsed}/{length}", strict=False))

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            before = os.umask(0o077)
            try:
                database = sqlite3.connect(self._path, timeout=_PATIENCE)
                # what a power cut takes is worth no wait
                database.execute("PRAGMA synchronous = OFF")
                database.execute("PRAGMA journal_mode = PERSIST")
                database.executescript(_SCHEMA)
            finally:
                os.umask(before)
            self._database = database
        return self._database

    def _complain(self, error: sqlite3.Error) -> None:
        self._log.warning(f"SASL: failed logins can not be counted in {self._path}: {error}")


def _pair(login: bytes, network: str) -> bytes:
    return hashlib.blake2b(network.encode() + b"\0" + login, digest_size=16).digest()


def _local(login: bytes) -> bytes:
    """What all spellings of a login have in common."""
    return login.decode("utf-8", "replace").partition("@")[0].casefold().encode()


def shown_alike(login: bytes) -> str:
    """How all spellings of a login are shown together."""
    return f"{_shown(_local(login))}@*"


def _shown(login: bytes) -> str:
    return printable_name(login)[:_LOGIN_LIMIT]
