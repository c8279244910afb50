"""The tables of the queue, and connections to them.

One file, ``queue.db``, in a directory that the caller made; mode 0600, owned by the process's user.  The
tables are such as PostgreSQL can have too (with BYTEA for BLOB).  A *part* of a message (a recipient, a piece
of content) is found by its key, ``key(owner, n)``: the owner's number in the high bits and n in the low ones,
so that the parts lie side by side and need no index of their own.  Content's owner is the message's
``content`` number: its seq, or an earlier number where the pieces came before the message (see
:mod:`mtad.queue.writer`).

Raises :class:`mtad.errors.QueueError` when the file cannot be opened or has a schema we don't know.
Postfix counterpart: the queue directories, ``rec_type(3)``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from urllib.parse import quote

from mtad.errors import QueueError, QueueFull
from mtad.queue import journal
from mtad.queue.message import DEFERRED, EXPORTED, HOLD, INCOMING, REQUEUED

FILE = "queue.db"

#: Content up to this size is one piece, and comes with its message; larger content is cut at it.
PIECE = 65536

_PART_BITS = 20

#: How states are written.
STATE = {INCOMING: 0, DEFERRED: 1, HOLD: 2, EXPORTED: 3, REQUEUED: 4}
STATE_NAME = {number: name for name, number in STATE.items()}
PENDING_NUMBER, DONE_NUMBER = 0, 1

_VERSION = 1
_TABLES = (
    # The number that comes next, for seq and content: ascending in the order of commits, never used again.
    "CREATE TABLE counter (next BIGINT NOT NULL)",
    "INSERT INTO counter VALUES (1)",
    """CREATE TABLE message (
        seq INTEGER PRIMARY KEY,
        queue_id TEXT NOT NULL UNIQUE,
        state SMALLINT NOT NULL,
        arrival DOUBLE PRECISION NOT NULL,
        size BIGINT NOT NULL,
        content BIGINT NOT NULL,
        recipients INTEGER NOT NULL,
        next_attempt DOUBLE PRECISION NOT NULL,
        warned SMALLINT NOT NULL,
        expired SMALLINT NOT NULL,
        smtputf8 SMALLINT NOT NULL,
        sender BLOB NOT NULL,
        body BLOB NOT NULL,
        ret BLOB NOT NULL,
        envid BLOB NOT NULL,
        attributes TEXT NOT NULL)""",
    "CREATE INDEX message_due ON message (next_attempt) WHERE state = 1",
    """CREATE TABLE recipient (
        id INTEGER PRIMARY KEY,
        state SMALLINT NOT NULL,
        address BLOB NOT NULL,
        original BLOB NOT NULL,
        notify TEXT NOT NULL,
        orcpt BLOB NOT NULL,
        dsn TEXT NOT NULL,
        reason TEXT NOT NULL,
        relay TEXT NOT NULL)""",
    "CREATE TABLE piece (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    # Content without a message yet; slot is the writer that brings it.
    "CREATE TABLE partial (content BIGINT PRIMARY KEY, slot INTEGER NOT NULL)",
)
#: Came after the first: files elsewhere that messages were made of, until the files are gone; messages that
#: are to go through intake once more, or were about to be exported.
_LATER = (
    "CREATE TABLE IF NOT EXISTS taken (name TEXT PRIMARY KEY)",
    "CREATE INDEX IF NOT EXISTS message_requeued ON message (seq) WHERE state = 4",
    "CREATE INDEX IF NOT EXISTS message_exported ON message (seq) WHERE state = 3",
)

#: Of a new database.  Less work than 4 KiB for large content, no more for small; 16 KiB measured slower for
#: single messages.
PAGE = 8192

#: A log of 4 MiB stays in the processor's cache: larger ones measured slower.
#: An index made on the way would read a whole table for each batch of messages.
_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA automatic_index = OFF",
    "PRAGMA secure_delete = OFF",
    "PRAGMA wal_autocheckpoint = 500",
    "PRAGMA journal_size_limit = 67108864",
)

#: How often, and after how many seconds, a file is opened anew that cannot be: when root makes the files
#: beside the database, as ``mailq`` does where nobody has them open, they are root's for a moment.
_TRIES, _PAUSE = 10, 0.02

#: Seconds to wait for a foreign program that has the file locked; our own take turns otherwise.
_BUSY_TIMEOUT = 10.0
_STATEMENTS = 256

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: What to do about a database that is damaged.
REMEDY = "stop the mail system and run: mtad queue repair"


def key(owner: int, n: int = 0) -> int:
    """The key of part ``n`` of ``owner``; ``key(owner + 1) - 1`` is the last one possible."""
    return owner << _PART_BITS | n


def owner(part: int) -> int:
    """Whose part a key is."""
    return part >> _PART_BITS


def queue_error(error: sqlite3.Error) -> QueueError:
    """The QueueError for an error of the database."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 255 in _DAMAGED:
        return QueueError(f"queue: {error}; {REMEDY}")
    return QueueFull(f"write queue: {error}") if code in _FULL else QueueError(f"queue: {error}")


def make(directory: str) -> None:
    """Make the database where there is none.  The caller holds the writers' lock."""
    path = os.path.join(directory, FILE)
    try:
        # Only a file that is new may be closed again: closing one in use would drop its locks.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    db = connect(directory)
    try:
        db.execute(f"PRAGMA page_size = {PAGE}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _TABLES:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
            for left in list(journal.left_behind(directory)):  # of messages that are no more
                journal.remove(left.path)
        for statement in _LATER if version in (0, _VERSION) else ():
            db.execute(statement)
        db.execute("COMMIT")
    except sqlite3.Error as error:
        raise queue_error(error) from error
    finally:
        db.close()
    if version not in (0, _VERSION):
        raise QueueError(f"{path}: the queue's format is {version}, this program knows {_VERSION}")


def connect(directory: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the database, which exists.  Transactions begin only with BEGIN."""
    path = os.path.join(directory, FILE)
    for left in reversed(range(_TRIES)):
        try:
            return _connect(path, read_only)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 255
            if not left or code != sqlite3.SQLITE_CANTOPEN or not os.path.exists(path):
                raise queue_error(error) from error
        time.sleep(_PAUSE)
    raise AssertionError("the last try returns or raises")


def _connect(path: str, read_only: bool) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"file:{quote(path)}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )
    for pragma in _PRAGMAS:
        db.execute(pragma)
    db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # opens the files beside it
    return db
