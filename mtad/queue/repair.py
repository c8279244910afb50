"""Looks whether a queue's database is sound, and rescues what can be had of one that is not.

:func:`check` tells what is wrong.  :func:`repair` copies every message that can be read whole into a new
database and puts that in the old one's place; the old one stays beside it, as ``queue.db.damaged.TIME``.  A
message of which only a part can be read is named, and left to the damaged file.  Raises QueueError.

Nobody else may have the queue open while it is repaired.  Postfix counterpart: ``postsuper -s``, ``corrupt``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtad.errors import QueueError
from mtad.queue import schema
from mtad.queue.journal import left_behind
from mtad.queue.rows import MESSAGE_COLUMNS, PIECE_COLUMNS, RECIPIENT_COLUMNS
from mtad.queue.schema import FILE, PIECE, REMEDY, key, owner

_PROBLEMS = 20


@dataclass(slots=True)
class Rescue:
    """What a repair came to."""

    rescued: int = 0
    lost: list[str] = field(default_factory=list)  # queue ids, or what is known of one
    kept: str = ""  # where the damaged file is


def check(directory: str) -> list[str]:
    """What is wrong with the database in ``directory``, each with the remedy; empty if nothing is."""
    path = os.path.join(directory, FILE)
    try:
        db = schema.connect(directory, read_only=True)
    except QueueError as error:
        return [f"{path}: {error}; {REMEDY}"]
    try:
        found = [row[0] for row in db.execute(f"PRAGMA integrity_check({_PROBLEMS})").fetchall()]
        problems = [] if found == ["ok"] else [text for row in found for text in row.split("\n")]
        if not problems:
            problems = _orphans(db)
    except sqlite3.Error as error:
        problems = [str(error)]
    finally:
        db.close()
    return [f"{path}: {problem}; {REMEDY}" for problem in problems]


def _orphans(db: sqlite3.Connection) -> list[str]:
    """Messages that lack a part."""
    part = key(1)
    sql = (
        f"SELECT queue_id FROM message m WHERE m.size > 0 AND NOT EXISTS"
        f" (SELECT 1 FROM piece p WHERE p.id = m.content * {part}) LIMIT {_PROBLEMS}"
    )
    return [f"message {name} has no content" for (name,) in db.execute(sql).fetchall()]


def repair(directory: str) -> Rescue:
    """Make a sound database of a damaged one."""
    path = os.path.join(directory, FILE)
    kept = f"{path}.damaged.{int(time.time())}"
    work = os.path.join(directory, f"repair.{os.getpid()}")
    result = Rescue(kept=kept)
    os.mkdir(work, 0o700)
    try:
        schema.make(work)
        new = schema.connect(work)
        try:
            _copy(directory, new, result)
            _keep_numbers(directory, new)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            new.close()
        for suffix in ("-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, kept + suffix)
        os.rename(path, kept)
        os.rename(os.path.join(work, FILE), path)
        handle = os.open(directory, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    except sqlite3.Error as error:
        raise schema.queue_error(error) from error
    finally:
        for name in os.listdir(work):
            os.unlink(os.path.join(work, name))
        os.rmdir(work)
    return result


def _copy(directory: str, new: sqlite3.Connection, result: Rescue) -> None:
    try:
        old = schema.connect(directory, read_only=True)
    except QueueError:
        result.lost.append("everything: the file is no database")
        return
    old.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        new.execute("BEGIN IMMEDIATE")
        for seq in _sequence(old):
            try:
                _copy_message(old, new, seq)
                result.rescued += 1
            except (sqlite3.Error, QueueError) as error:
                new.execute("DELETE FROM message WHERE seq = ?", (seq,))
                for table in ("recipient", "piece"):
                    new.execute(f"DELETE FROM {table} WHERE id >= ? AND id < ?", (key(seq), key(seq + 1)))
                result.lost.append(f"{_name(old, seq)} ({error})")
        new.execute("COMMIT")
    finally:
        old.close()


def _keep_numbers(directory: str, new: sqlite3.Connection) -> None:
    """No number comes again that a message has, or had when it was delivered: what a process has left would
    be taken for the new message's."""
    (last,) = new.execute("SELECT max(seq) FROM message").fetchone()
    used = [last or 0]
    for left in left_behind(directory):
        used += [owner(part) for part in left.delivered | left.doubtful]
    new.execute("UPDATE counter SET next = ?", (max(used) + 1,))


def _sequence(old: sqlite3.Connection) -> Iterator[int]:
    """The numbers of all messages, as far as any tree of the file still knows them."""
    found: set[int] = set()
    part = key(1)
    for sql in (
        "SELECT seq FROM message NOT INDEXED ORDER BY seq",
        "SELECT seq FROM message NOT INDEXED ORDER BY seq DESC",
        "SELECT seq FROM message INDEXED BY sqlite_autoindex_message_1 ORDER BY queue_id",
        "SELECT seq FROM message INDEXED BY message_due WHERE state = 1",
        f"SELECT DISTINCT id / {part} FROM recipient ORDER BY id",
        f"SELECT DISTINCT id / {part} FROM recipient ORDER BY id DESC",
    ):
        try:
            for (seq,) in old.execute(sql):
                found.add(seq)
        except sqlite3.Error:
            pass  # the next one may know more
    yield from sorted(found)


def _copy_message(old: sqlite3.Connection, new: sqlite3.Connection, seq: int) -> None:
    columns = ",".join(MESSAGE_COLUMNS)
    rows = old.execute(f"SELECT {columns} FROM message NOT INDEXED WHERE seq = ?", (seq,)).fetchall()
    if not rows:
        raise QueueError("the envelope cannot be read")
    values = dict(zip(MESSAGE_COLUMNS, rows[0], strict=True))
    content, size = values["content"], values["size"]
    values["content"] = seq
    _insert(new, "message", MESSAGE_COLUMNS, list(values.values()))
    names = ",".join(RECIPIENT_COLUMNS)
    sql = f"SELECT {names} FROM recipient WHERE id >= ? AND id < ?"
    recipients = old.execute(sql, (key(seq), key(seq + 1))).fetchall()
    if len(recipients) != values["recipients"]:
        raise QueueError("some recipients cannot be read")
    for row in recipients:
        _insert(new, "recipient", RECIPIENT_COLUMNS, row)
    for n in range(max(1, -(-size // PIECE))):
        piece = old.execute("SELECT data FROM piece WHERE id = ?", (key(content, n),)).fetchall()
        if not piece or len(piece[0][0]) != min(PIECE, size - n * PIECE):
            raise QueueError("some of the content cannot be read")
        _insert(new, "piece", PIECE_COLUMNS, (key(seq, n), piece[0][0]))


def _insert(db: sqlite3.Connection, table: str, columns: tuple[str, ...], values: Sequence[Any]) -> None:
    db.execute(f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})", values)


def _name(old: sqlite3.Connection, seq: int) -> str:
    try:
        rows = old.execute("SELECT queue_id FROM message WHERE seq = ?", (seq,)).fetchall()
    except sqlite3.Error:
        rows = []
    return str(rows[0][0]) if rows else f"message number {seq}"
