"""What each login has sent, in a small database beside the queue.

:class:`LoginCounts` is shared by all processes that open the same file, and outlives them.  Its functions
block for the time of a small transaction: they run in a thread.  Counts are of fixed windows, like those of
:mod:`mtad.policy.anvil`: one begins with the first event after the end of the one before.  Recipients that a
login has written to are known by a digest of both, so the file tells nobody's addresses.

Raises :class:`sqlite3.Error`.  Commits survive the end of the process; the last ones may not survive that of
the host.  Postfix counterpart: none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable

MESSAGES, RECIPIENTS, NEW_RECIPIENTS = range(3)

DAY = 86400

_BUSY_TIMEOUT = 10.0

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS counts (
    login TEXT NOT NULL, kind INTEGER NOT NULL, start INTEGER NOT NULL, ends INTEGER NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (login, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known (digest BLOB PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
"""

_COUNT = """
INSERT INTO counts (login, kind, start, ends, count) VALUES (:login, :kind, :now, :now + :unit, 1)
ON CONFLICT (login, kind) DO UPDATE SET
    count = CASE WHEN start + :unit < :now OR start > :now THEN 1 ELSE count + 1 END,
    start = CASE WHEN start + :unit < :now OR start > :now THEN :now ELSE start END,
    ends = CASE WHEN start + :unit < :now OR start > :now THEN :now + :unit ELSE start + :unit END
RETURNING count
"""


class LoginCounts:
    """The counts in the file ``path``, which is made when first needed.

    ``memory``: days after which a recipient that a login has not written to any more is new again.
    """

    def __init__(self, path: str, memory: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._cleaned = 0

    def message(self, login: str, unit: int) -> int:
        """A message more: how many there were in this time unit."""
        with self._lock:
            return self._count(self._open(), login, MESSAGES, unit)

    def recipient(self, login: str, address: bytes, unit: int, limit: int) -> tuple[int, int]:
        """A recipient more: how many there were in this time unit, and, if this one is new, how many of this
        day are (else 0).  One beyond ``limit`` stays unknown.  ``unit`` and ``limit``: 0, don't count."""
        with self._lock:
            database = self._open()
            database.execute("BEGIN IMMEDIATE")
            try:
                count = self._count(database, login, RECIPIENTS, unit) if unit else 0
                fresh = self._fresh(database, login, address, limit) if limit else 0
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
            return count, fresh

    def _count(self, database: sqlite3.Connection, login: str, kind: int, unit: int) -> int:
        values = {"login": login, "kind": kind, "unit": unit, "now": int(self._clock())}
        return int(database.execute(_COUNT, values).fetchall()[0][0])

    def _fresh(self, database: sqlite3.Connection, login: str, address: bytes, limit: int) -> int:
        digest = hashlib.blake2b(login.encode() + b"\0" + address.lower(), digest_size=16).digest()
        today = int(self._clock()) // DAY
        row = database.execute("SELECT day FROM known WHERE digest = ?", (digest,)).fetchone()
        fresh = 0
        if row is None or row[0] < today - self._memory:
            fresh = self._count(database, login, NEW_RECIPIENTS, DAY)
        if fresh <= limit and (row is None or row[0] != today):
            database.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (digest, today))
        return fresh

    def _open(self) -> sqlite3.Connection:
        database = self._database
        if database is None:
            database = self._database = self._connect()
        now = int(self._clock())
        if now // DAY != self._cleaned:
            self._cleaned = now // DAY
            database.execute("DELETE FROM counts WHERE ends < ?", (now,))
            database.execute("DELETE FROM known WHERE day < ?", (self._cleaned - self._memory,))
        return database

    def _connect(self) -> sqlite3.Connection:
        """Open the file, and make it: one process at a time, for the first change of its mode can't wait."""
        try:
            lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            database = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            database.executescript(_SCHEMA)
            return database
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None
