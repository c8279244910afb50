"""Guessing ends: a login that failed too often from one network is locked there for a while.

:class:`FailureLimit` counts pairs of login and network: nobody can lock out an owner who is elsewhere.
After ``mtad_auth_failure_limit`` failures, none more than ``mtad_auth_failure_time`` after the one before,
the pair is locked for that time: right and wrong passwords get the same answer, and no back end is asked.  A
success forgets the failures.  Names that do not exist count like others.  Networks are those of
``smtpd_client_ipv4_prefix_length`` and ``smtpd_client_ipv6_prefix_length``.

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

_SCHEMA = """
CREATE TABLE IF NOT EXISTS failures
  (pair BLOB PRIMARY KEY, login TEXT, network TEXT, count INTEGER, last REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_age ON failures (last);
"""

_COUNT = """
INSERT INTO failures VALUES (?1, ?2, ?3, 1, ?4) ON CONFLICT (pair) DO UPDATE
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
            p.number("smtpd_client_ipv6_prefix_length"),
        )
        self._log = log
        self._clock = clock
        self._database: sqlite3.Connection | None = None

    def __bool__(self) -> bool:
        return self._limit > 0

    def locked(self, login: bytes, address: str) -> bool:
        """Whether nobody at ``address`` may try this login now."""
        try:
            row = self._open().execute(
                "SELECT count, last FROM failures WHERE pair = ?", (_pair(login, self._network(address)),)
            )
            count, last = row.fetchone() or (0, 0.0)
        except sqlite3.Error as error:
            self._complain(error)
            return False
        return bool(count >= self._limit and self._clock() - last < self._life)

    def failed(self, login: bytes, address: str) -> None:
        """The login failed from there."""
        network, now = self._network(address), self._clock()
        shown = printable_name(login)[:_LOGIN_LIMIT]
        try:
            with self._open() as database:
                database.execute("DELETE FROM failures WHERE last < ?", (now - self._life,))
                pair = _pair(login, network)
                row = database.execute(_COUNT, (pair, shown, network, now, self._life)).fetchone()
                database.execute(
                    "DELETE FROM failures WHERE pair IN (SELECT pair FROM failures ORDER BY last "
                    "LIMIT max(0, (SELECT count(*) FROM failures) - ?))",
                    (CAPACITY,),
                )
        except sqlite3.Error as error:
            self._complain(error)
            return
        if row[0] == self._limit:
            self._log.warning(
                f"SASL: login {shown} is locked for clients in {network} after {row[0]} failures, "
                f"for {self._life} seconds"
            )

    def succeeded(self, login: bytes, address: str) -> None:
        """The login succeeded from there."""
        try:
            database = self._open()
            pair = (_pair(login, self._network(address)),)
            if database.execute("SELECT 1 FROM failures WHERE pair = ?", pair).fetchone():
                with database:
                    database.execute("DELETE FROM failures WHERE pair = ?", pair)
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
                    "SELECT login, network, count, last FROM failures WHERE count >= ? AND last > ? "
                    "ORDER BY last DESC",
                    (self._limit, since),
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
