"""What is written: each function is part of a transaction that :mod:`mtad.queue.writer` begins and commits.

Rows of many messages go into one statement: fewer statements are fewer times that the writer's thread must
win the interpreter back from the reactor's.  Nothing here changes an object of the caller until
``committed`` is called, so that a transaction may be rolled back and tried again.
Raises ``sqlite3.Error``, and QueueError where a spool file fails.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from mtad.queue.journal import Left
from mtad.queue.message import Message, Outcome
from mtad.queue.rows import (
    MESSAGE_COLUMNS,
    PIECE_COLUMNS,
    RECIPIENT_COLUMNS,
    Entry,
    Row,
    encode,
    read_spool,
    storable,
)
from mtad.queue.schema import DONE_NUMBER, PENDING_NUMBER, PIECE, STATE, key, owner

#: Changes the messages of a JSON list of queue ids and returns the ids that it concerned.
Apply = Callable[[sqlite3.Connection, str], list[str]]

#: Rows of one statement.  Each count has a prepared statement of its own.
_ROWS = 32
#: Pieces of a large message that one transaction takes.
_PORTION = 16
#: Messages that one transaction of an operator's command changes.
_CHANGES = 1000

_DEFER = (
    "UPDATE message SET state = CASE WHEN state > 1 THEN state ELSE 1 END, next_attempt = ?, warned = ?"
    " WHERE seq = ?"
)
_CHANGE = "UPDATE message SET attributes = ? WHERE seq = ?"
_OUTCOME = "UPDATE recipient SET state = ?, dsn = ?, reason = ?, relay = ? WHERE id = ?"


@lru_cache(maxsize=256)
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    values = ",".join(["(" + ",".join("?" * len(columns)) + ")"] * rows)
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES {values}"


@lru_cache(maxsize=256)
def _delete(table: str, column: str, rows: int) -> str:
    return f"DELETE FROM {table} WHERE {column} IN ({','.join('?' * rows)})"


def _insert_rows(db: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    for at in range(0, len(rows), _ROWS):
        some = rows[at : at + _ROWS]
        db.execute(_insert(table, columns, len(some)), [value for row in some for value in row])


def _delete_rows(db: sqlite3.Connection, table: str, column: str, keys: Sequence[int]) -> None:
    for at in range(0, len(keys), _ROWS):
        some = keys[at : at + _ROWS]
        db.execute(_delete(table, column, len(some)), some)


def _delete_parts(db: sqlite3.Connection, table: str, owner: int) -> None:
    db.execute(f"DELETE FROM {table} WHERE id >= ? AND id < ?", (key(owner), key(owner + 1)))


def _numbers(db: sqlite3.Connection, count: int) -> int:
    """The first of ``count`` new numbers."""
    rows = db.execute("UPDATE counter SET next = next + ? RETURNING next", (count,)).fetchall()
    return int(rows[0][0]) - count


def publish(db: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Write messages, all whose content in spool files has been staged."""
    seq = _numbers(db, len(entries))
    messages: list[Row] = []
    recipients: list[Row] = []
    pieces: list[Row] = []
    for entry in entries:
        messages.append((seq, entry.content or seq, *entry.message))
        first = key(seq)
        for n, row in enumerate(entry.recipients, first):
            recipients.append((n, *row))
        for n, data in enumerate(entry.pieces, first):
            pieces.append((n, data))
        if entry.content:
            db.execute("DELETE FROM partial WHERE content = ?", (entry.content,))
        if entry.taken:
            db.execute("INSERT INTO taken VALUES (?)", (entry.taken,))
        seq += 1
    _insert_rows(db, "message", MESSAGE_COLUMNS, messages)
    _insert_rows(db, "recipient", RECIPIENT_COLUMNS, recipients)
    _insert_rows(db, "piece", PIECE_COLUMNS, pieces)


class Stage:
    """Brings an entry's spool file into the store, a portion at a time."""

    result = None

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._at = 0

    def step(self, db: sqlite3.Connection, slot: int) -> bool:
        """Write the next portion; True when it is the last."""
        entry = self.entry
        if entry.spool is None:
            return True
        if not entry.staged:
            entry.content = _numbers(db, 1)
            db.execute("INSERT INTO partial VALUES (?, ?)", (entry.content, slot))
        at = entry.staged
        rows: list[Row] = []
        while at < entry.size and len(rows) < _PORTION:
            data = read_spool(entry.spool, at, min(PIECE, entry.size - at))
            rows.append((key(entry.content, at // PIECE), data))
            at += len(data)
        _insert_rows(db, "piece", PIECE_COLUMNS, rows)
        self._at = at
        return at >= entry.size

    def committed(self) -> None:
        self.entry.staged = self._at


def forget(db: sqlite3.Connection, content: int) -> None:
    """Remove content that has no message."""
    _delete_parts(db, "piece", content)
    db.execute("DELETE FROM partial WHERE content = ?", (content,))


class Settlement:
    """What one attempt came to, to be written; ``removed`` tells afterwards whether the message is gone."""

    __slots__ = ("attributes", "final", "message", "next_attempt", "outcomes", "removed", "whole")

    def __init__(self, message: Message, outcomes: Sequence[Outcome], next_attempt: float) -> None:
        self.message = message
        self.outcomes = outcomes
        self.next_attempt = next_attempt
        self.removed = False
        self.attributes = encode(message.attributes) if message.changed else ""
        self.final = {o.recipient.id for o in outcomes if o.status != "deferred"}
        #: All recipients are done, none was before, and the content is one piece: all keys are known.
        count = message.recipient_count
        self.whole = 0 < count == len(self.final) and message.size <= PIECE


def settle(db: sqlite3.Connection, settlements: Iterable[Settlement]) -> None:
    """Write what attempts came to, and remove messages whose recipients are all done."""
    gone: list[int] = []
    recipients: list[int] = []
    rest: list[Settlement] = []
    for settlement in settlements:
        if settlement.whole:
            settlement.removed = True
            gone.append(settlement.message.seq)
            recipients += settlement.final
        else:
            rest.append(settlement)
    if gone:
        _delete_rows(db, "recipient", "id", recipients)
        _delete_rows(db, "piece", "id", [key(seq) for seq in gone])
        _delete_rows(db, "message", "seq", gone)
    if rest:
        _settle_rest(db, rest)


def _settle_rest(db: sqlite3.Connection, settlements: Sequence[Settlement]) -> None:
    outcomes: list[Row] = []
    for settlement in settlements:
        for o in settlement.outcomes:
            state = PENDING_NUMBER if o.status == "deferred" else DONE_NUMBER
            outcomes.append((state, o.dsn, storable(o.reason), storable(o.relay), o.recipient.id))
    db.executemany(_OUTCOME, outcomes)
    deferred: list[Row] = []
    for settlement in settlements:
        seq = settlement.message.seq
        settlement.removed = not _pending(db, seq)
        if settlement.removed:
            _remove(db, seq)
        else:
            deferred.append((settlement.next_attempt, settlement.message.warned, seq))
        if settlement.attributes:
            db.execute(_CHANGE, (settlement.attributes, seq))
    db.executemany(_DEFER, deferred)


def _pending(db: sqlite3.Connection, seq: int) -> bool:
    found = db.execute(
        "SELECT 1 FROM recipient WHERE id >= ? AND id < ? AND state = 0 LIMIT 1", (key(seq), key(seq + 1))
    ).fetchall()
    return bool(found)


def _remove(db: sqlite3.Connection, seq: int) -> None:
    for (content,) in db.execute("SELECT content FROM message WHERE seq = ?", (seq,)).fetchall():
        _delete_parts(db, "piece", content)
    _delete_parts(db, "recipient", seq)
    db.execute("DELETE FROM message WHERE seq = ?", (seq,))


class Recovery:
    """What a process that is no more has left: recipients that it had delivered to are done.

    ``result``: ids of messages that are gone by that; queue id and address of each recipient in doubt; the
    journal, to be removed (:func:`mtad.queue.journal.remove`) by who has told of them."""

    def __init__(self, left: Left) -> None:
        self._left = left
        self.result: tuple[list[str], list[tuple[str, bytes]], str] = ([], [], left.path)

    def step(self, db: sqlite3.Connection, slot: int) -> bool:
        names = json.dumps(sorted(self._left.delivered))
        sql = (
            f"UPDATE recipient SET state = {DONE_NUMBER} WHERE state = {PENDING_NUMBER}"
            " AND id IN (SELECT value FROM json_each(?)) RETURNING id"
        )
        done = [number for (number,) in db.execute(sql, (names,)).fetchall()]
        gone: list[str] = []
        for seq in sorted({owner(number) for number in done}):
            if not _pending(db, seq):
                found = db.execute("SELECT queue_id FROM message WHERE seq = ?", (seq,)).fetchall()
                gone += [name for (name,) in found]
                _remove(db, seq)
        sql = (
            f"SELECT m.queue_id, r.address FROM recipient r JOIN message m ON m.seq = r.id / {key(1)}"
            f" WHERE r.state = {PENDING_NUMBER} AND r.id IN (SELECT value FROM json_each(?)) ORDER BY r.id"
        )
        doubtful = db.execute(sql, (json.dumps(sorted(self._left.doubtful)),)).fetchall()
        self.result = gone, doubtful, self._left.path
        return True

    def committed(self) -> None:
        pass


class Change:
    """An operator's command on messages named by queue id, some at a time."""

    def __init__(self, queue_ids: Sequence[str], apply: Apply) -> None:
        self.result: list[str] = []
        self._left = list(dict.fromkeys(queue_ids))
        self._apply = apply
        self._found: list[str] = []

    def step(self, db: sqlite3.Connection, slot: int) -> bool:
        """Change some; True when they were the last."""
        self._found = self._apply(db, json.dumps(self._left[:_CHANGES]))
        return len(self._left) <= _CHANGES

    def committed(self) -> None:
        self.result += self._found
        del self._left[:_CHANGES]


def _update(assignment: str, condition: str) -> Apply:
    sql = (
        f"UPDATE message SET {assignment} WHERE {condition}"
        " AND queue_id IN (SELECT value FROM json_each(?)) RETURNING queue_id"
    )

    def apply(db: sqlite3.Connection, names: str) -> list[str]:
        return [name for (name,) in db.execute(sql, (names,)).fetchall()]

    return apply


flush = _update("next_attempt = 0", "state = 1")
hold = _update("state = 2", "state < 2")
release = _update("state = 1, next_attempt = 0", "state = 2")
requeue = _update("state = 4", "state < 3")
export = _update("state = 3", "state <> 3")
expire = _update("expired = 1", "expired = 0 AND state < 3")


def remove(db: sqlite3.Connection, names: str) -> list[str]:
    """Remove messages with all that belongs to them."""
    sql = "SELECT seq, queue_id FROM message WHERE queue_id IN (SELECT value FROM json_each(?))"
    found = db.execute(sql, (names,)).fetchall()
    for seq, _ in found:
        _remove(db, seq)
    return [name for _, name in found]


def rename(name: str) -> Apply:
    """A message that has to have another queue id."""

    def apply(db: sqlite3.Connection, names: str) -> list[str]:
        db.execute(
            "UPDATE message SET queue_id = ? WHERE queue_id IN (SELECT value FROM json_each(?))",
            (name, names),
        )
        return [name]

    return apply


def take_back(state: str) -> Apply:
    """Messages that were to be exported are ours again, in ``state``."""
    return _update(f"state = {STATE[state]}", "state = 3")


def forget_taken(db: sqlite3.Connection, names: str) -> list[str]:
    """Files that are gone need not be remembered."""
    db.execute("DELETE FROM taken WHERE name IN (SELECT value FROM json_each(?))", (names,))
    return []


class FlushAll:
    """Makes all deferred messages due, some at a time; ``result`` counts them."""

    def __init__(self) -> None:
        self.result = 0
        self._after = 0
        self._found: list[int] = []

    def step(self, db: sqlite3.Connection, slot: int) -> bool:
        """Make some due; True when they were the last."""
        sql = "SELECT seq FROM message WHERE state = 1 AND seq > ? ORDER BY seq LIMIT ?"
        found = [seq for (seq,) in db.execute(sql, (self._after, _CHANGES)).fetchall()]
        self._found = found
        if found:
            sql = "UPDATE message SET next_attempt = 0 WHERE state = 1 AND seq BETWEEN ? AND ?"
            db.execute(sql, (found[0], found[-1]))
        return len(found) < _CHANGES

    def committed(self) -> None:
        if self._found:
            self._after = self._found[-1]
            self.result += len(self._found)
