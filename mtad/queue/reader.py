"""The reading side: short transactions on a connection of its own, in the caller's thread.

Raises QueueError.  Postfix counterpart: ``qmgr_scan.c``, ``showq(8)``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from mtad.errors import QueueError
from mtad.queue import rows, schema
from mtad.queue.message import DEFERRED, HOLD, INCOMING, Message, Recipient
from mtad.queue.schema import PIECE, STATE, key

_PAGE = 200
#: Recipients of a message that come with it to those who deliver it.
PORTION = 1000

#: Connections for contents that are kept when nobody reads; opening one costs more than a small content.
_IDLE = 8

_PART = key(1)
_WITH_CONTENT = (
    f"SELECT {rows.MESSAGE_FIELDS}, p.data FROM message m"
    f" LEFT JOIN piece p ON m.size <= {PIECE} AND p.id = m.content * {_PART}"
)
_WITHOUT_CONTENT = f"SELECT {rows.MESSAGE_FIELDS}, NULL FROM message m"
#: The plus keeps SQLite from making an index of the whole table on the fly.
_RECIPIENTS = (
    f"SELECT {rows.RECIPIENT_FIELDS} FROM message m CROSS JOIN recipient r"
    f" WHERE +r.state = 0 AND r.id >= m.seq * {_PART} AND r.id < m.seq * {_PART} + "
)
_MORE = f"SELECT {rows.RECIPIENT_FIELDS} FROM recipient r WHERE +r.state = 0 AND r.id >= ? AND r.id < ?"

_INCOMING = "m.state = 0 AND m.seq > ?"
_NAMED = "m.seq IN (SELECT value FROM json_each(?))"
_AFTER = "m.seq > ?"
_ID = "m.queue_id = ?"

_DUE_WITH = "SELECT seq FROM message WHERE state = 1 AND next_attempt = ? AND seq > ? ORDER BY seq"
_DUE_BEHIND = (
    "SELECT seq FROM message WHERE state = 1 AND next_attempt > ? AND next_attempt <= ?"
    " ORDER BY next_attempt, seq"
)


class Reader:
    """Reads the database of ``directory``."""

    def __init__(self, directory: str, *, read_only: bool) -> None:
        self._directory = directory
        self._db = schema.connect(directory, read_only=read_only)
        self._idle: list[sqlite3.Connection] = []
        # No message between these two is incoming: only new ones are, and they come behind.
        self._empty_from = self._empty_to = 0

    def close(self) -> None:
        self._db.close()
        while self._idle:
            self._idle.pop().close()

    def incoming(self, after: int, limit: int) -> list[Message]:
        if self._empty_from <= after < self._empty_to:
            after = self._empty_to
        with _Snapshot(self._db) as db:
            messages = _load(db, _WITH_CONTENT, _INCOMING, after, limit, PORTION)
            if len(messages) < limit:
                last = db.execute("SELECT max(seq) FROM message").fetchall()[0][0]
                self._empty_from = messages[-1].seq if messages else after
                self._empty_to = max(last or 0, self._empty_from)
        return messages

    def due(self, now: float, limit: int, skip: frozenset[int], after: tuple[float, int]) -> list[Message]:
        found: list[int] = []
        when, last = after
        with _Snapshot(self._db) as db:
            # two queries, since one with an OR would look at all that are due at the same moment
            for sql, values in ((_DUE_WITH, (min(when, now), last)), (_DUE_BEHIND, (when, now))):
                if sql is _DUE_WITH and (last <= 0 or when > now):
                    continue
                cursor = db.execute(sql, values)
                for (seq,) in cursor:
                    if len(found) >= limit:
                        break
                    if seq not in skip:
                        found.append(seq)
                cursor.close()
            messages = []
            if found:
                messages = _load(db, _WITH_CONTENT, _NAMED, json.dumps(found), limit, PORTION)
        messages.sort(key=lambda message: (message.next_attempt, message.seq))
        return messages

    def recipients(self, message: Message, first: int, count: int) -> list[Recipient]:
        start = key(message.seq, first)
        with _Snapshot(self._db) as db:
            found = db.execute(f"{_MORE} ORDER BY r.id", (start, start + count)).fetchall()
        return [rows.recipient(row) for row in found]

    def next_due(self, after: float) -> float | None:
        sql = "SELECT min(next_attempt) FROM message WHERE state = 1 AND next_attempt > ?"
        with _Snapshot(self._db) as db:
            found: float | None = db.execute(sql, (after,)).fetchall()[0][0]
        return found

    def newest(self) -> int:
        with _Snapshot(self._db) as db:
            return int(db.execute("SELECT max(seq) FROM message").fetchone()[0] or 0)

    def counts(self) -> dict[str, int]:
        with _Snapshot(self._db) as db:
            found = dict(db.execute("SELECT state, count(*) FROM message GROUP BY state").fetchall())
        return {name: found.get(STATE[name], 0) for name in (INCOMING, DEFERRED, HOLD)}

    def listing(self) -> Iterator[Message]:
        after = 0
        while True:
            with _Snapshot(self._db) as db:
                messages = _load(db, _WITHOUT_CONTENT, _AFTER, after, _PAGE)
            yield from messages
            if len(messages) < _PAGE:
                return
            after = messages[-1].seq

    def requeued(self, limit: int, skip: frozenset[int]) -> list[Message]:
        with _Snapshot(self._db) as db:
            found = db.execute("SELECT seq FROM message WHERE state = 4 ORDER BY seq").fetchall()
            seqs = [seq for (seq,) in found if seq not in skip][:limit]
            return _load(db, _WITHOUT_CONTENT, _NAMED, json.dumps(seqs), limit) if seqs else []

    def exported(self) -> int:
        with _Snapshot(self._db) as db:
            return int(db.execute("SELECT count(*) FROM message WHERE state = 3").fetchall()[0][0])

    def was_taken(self, name: str) -> bool:
        with _Snapshot(self._db) as db:
            return bool(db.execute("SELECT 1 FROM taken WHERE name = ?", (name,)).fetchall())

    def find(self, queue_id: str) -> Message | None:
        with _Snapshot(self._db) as db:
            messages = _load(db, _WITHOUT_CONTENT, _ID, queue_id, 1)
        return messages[0] if messages else None

    def read(self, message: Message) -> Iterator[bytes]:
        """The pieces of a message's content, on a connection of their own: for any thread."""
        try:
            db = self._idle.pop()
        except IndexError:
            db = schema.connect(self._directory, read_only=True)
        kept = False
        try:
            found = db.execute("SELECT content, size FROM message WHERE seq = ?", (message.seq,)).fetchall()
            if not found:
                raise QueueError(f"{message.queue_id}: message is gone")
            content, size = found[0]
            for n in range(max(1, -(-size // PIECE))):
                piece = db.execute("SELECT data FROM piece WHERE id = ?", (key(content, n),)).fetchall()
                if not piece:
                    raise QueueError(f"{message.queue_id}: message is gone")
                yield piece[0][0]
            kept = len(self._idle) < _IDLE
        except sqlite3.Error as error:
            raise schema.queue_error(error) from error
        finally:
            if kept:
                self._idle.append(db)
            else:
                db.close()


class _Snapshot:
    """A transaction that only reads, with the database's errors made ours."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            raise schema.queue_error(error) from error
        return self._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error as failed:
            error = error or failed
        if isinstance(error, sqlite3.Error):
            raise schema.queue_error(error) from error


def _load(
    db: sqlite3.Connection, select: str, where: str, value: Any, limit: int, portion: int = _PART
) -> list[Message]:
    """Messages in order of seq, with those of their first ``portion`` recipients that are pending."""
    found = db.execute(f"{select} WHERE {where} ORDER BY m.seq LIMIT ?", (value, limit)).fetchall()
    messages = {row[0]: rows.message(row[:-1], row[-1]) for row in found}
    if found:
        sql = f"{_RECIPIENTS}{portion} AND {where} AND m.seq <= ? ORDER BY m.seq, r.id"
        for row in db.execute(sql, (value, found[-1][0])).fetchall():
            messages[row[0] // _PART].recipients.append(rows.recipient(row))
        for message in messages.values():
            message.recipients_read = min(portion, message.recipient_count)
    return list(messages.values())
