"""The embedded driver: the suite for all drivers, and what is its own."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import PIECE, Conformance, make, sent, spooled
from harness import SQLiteDriver

from mtad.errors import QueueError, QueueFull
from mtad.queue import reader, schema
from mtad.queue.message import Outcome
from mtad.queue.sqlite import SQLiteStore


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[SQLiteDriver]:
    made = SQLiteDriver(tmp_path)
    yield made
    made.wait(made.store.close())


class TestSQLite(Conformance):
    pass


def count(directory: Path, table: str) -> int:
    db = sqlite3.connect(directory / "queue.db")
    try:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        db.close()


def test_files_are_the_owners_alone(driver: SQLiteDriver) -> None:
    driver.wait(driver.store.enqueue(make()))
    names = {path.name for path in driver.directory.iterdir()}
    assert {"queue.db", "queue.db-wal", "queue.db-shm", "queue.lock"} <= names
    for path in driver.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_each_commit_is_synced(driver: SQLiteDriver) -> None:
    db = schema.connect(str(driver.directory))
    try:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        db.close()


def test_nothing_is_left_of_what_went(driver: SQLiteDriver) -> None:
    for message in (make(), make(3), spooled(b"x" * (20 * PIECE)), make(content=b"x" * (2 * PIECE))):
        driver.wait(driver.store.enqueue(message))
    for message in driver.wait(driver.store.incoming(0, 10)):
        assert driver.wait(driver.store.finish(message, sent(*message.recipients), 0.0))
    for table in ("message", "recipient", "piece", "partial"):
        assert count(driver.directory, table) == 0, table


def test_failed_large_message_leaves_nothing(driver: SQLiteDriver) -> None:
    message = spooled(b"x" * (50 * PIECE))
    message.size += 1
    with pytest.raises(QueueError):
        driver.wait(driver.store.enqueue(message))
    assert count(driver.directory, "piece") == count(driver.directory, "partial") == 0


def test_contents_are_read_on_few_connections(driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    for letter in (b"a", b"b", b"c"):
        driver.wait(driver.store.enqueue(spooled(letter * (3 * PIECE))))
    messages = driver.wait(driver.store.incoming(0, 10))
    opened: list[sqlite3.Connection] = []
    connect = schema.connect

    def counted(directory: str, *, read_only: bool = False) -> sqlite3.Connection:
        opened.append(connect(directory, read_only=read_only))
        return opened[-1]

    monkeypatch.setattr(schema, "connect", counted)
    for _ in range(3):
        assert [b"".join(driver.store.read(each))[:1] for each in messages] == [b"a", b"b", b"c"]
    assert len(opened) == 1
    halves = [driver.store.read(each) for each in messages]
    assert [next(half)[:1] for half in halves] == [b"a", b"b", b"c"]
    assert len(opened) == 3
    for half in halves:
        list(half)
    driver.wait(driver.store.close())
    for db in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            db.execute("SELECT 1")


def test_no_batch_reads_a_whole_table(driver: SQLiteDriver) -> None:
    db = schema.connect(str(driver.directory))
    for where, value in ((reader._INCOMING, 0), (reader._NAMED, "[1]"), (reader._AFTER, 0)):
        for select in (
            f"{reader._WITH_CONTENT} WHERE {where} ORDER BY m.seq LIMIT ?",
            f"{reader._RECIPIENTS}9 AND {where} AND m.seq <= ? ORDER BY m.seq, r.id",
        ):
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {select}", (value, 9)).fetchall()]
            tables = [step for step in plan if "json_each" not in step and "LIST SUBQUERY" not in step]
            assert all("USING INTEGER PRIMARY KEY" in step for step in tables), plan
    db.close()


def test_one_commit_a_turn(driver: SQLiteDriver) -> None:
    waiting = [driver.store.enqueue(make()) for _ in range(200)]
    for awaitable in waiting:
        driver.wait(awaitable)
    assert driver.reactor.wakes == 2  # the thread's, and ours by it


def test_two_writers(driver: SQLiteDriver) -> None:
    other = SQLiteDriver(driver.directory)
    waiting = [(d, d.store.enqueue(make())) for _ in range(50) for d in (driver, other)]
    for d, awaitable in waiting:
        d.wait(awaitable)
    mine = [m.seq for m in driver.wait(driver.store.incoming(0, 1000))]
    assert mine == [m.seq for m in other.wait(other.store.incoming(0, 1000))]
    assert len(mine) == 100
    other.wait(other.store.close())


def test_partial_content_of_the_dead_is_swept_and_of_the_living_not(driver: SQLiteDriver) -> None:
    db = sqlite3.connect(driver.directory / "queue.db", isolation_level=None)
    dead, living = 9, 0
    for content, slot in ((100, dead), (200, living)):
        db.execute("INSERT INTO partial VALUES (?, ?)", (content, slot))
        db.execute("INSERT INTO piece VALUES (?, ?)", (content << 20, b"x"))
    db.close()
    other = SQLiteDriver(driver.directory)
    assert count(driver.directory, "piece") == count(driver.directory, "partial") == 1
    other.wait(other.store.close())
    driver.reopen()
    assert count(driver.directory, "piece") == count(driver.directory, "partial") == 0


def test_full(driver: SQLiteDriver) -> None:
    """No room for more: a reply of its own, what makes room still works, and all is well afterwards."""
    (kept,) = [make(content=b"x" * PIECE)]
    driver.wait(driver.store.enqueue(kept))
    writer = driver.store._writer
    assert writer is not None and writer._db is not None
    writer._db.execute("PRAGMA max_page_count = 1")  # as small as it is now
    with pytest.raises(QueueFull):
        driver.wait(driver.store.enqueue(make(content=b"y" * PIECE)))
    with pytest.raises(QueueFull):
        driver.wait(driver.store.enqueue(spooled(b"y" * (40 * PIECE))))
    (message,) = driver.wait(driver.store.incoming(0, 10))
    waiting = [driver.store.enqueue(make(content=b"y" * PIECE)) for _ in range(3)]
    waiting.insert(1, driver.store.finish(message, sent(*message.recipients), 0.0))  # type: ignore[arg-type]
    results = []
    for awaitable in waiting:
        try:
            results.append(driver.wait(awaitable))
        except QueueFull:
            results.append("full")
    assert results[1] is True
    assert results.count("full") == 2
    writer._db.execute("PRAGMA max_page_count = 1000000")
    driver.wait(driver.store.enqueue(spooled(b"y" * (40 * PIECE))))
    assert len(driver.wait(driver.store.incoming(0, 10))) == 2


def test_nearly_full(driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room left: nothing comes in any more, and what is there may go."""
    driver.wait(driver.store.enqueue(make()))
    driver.wait(driver.store.enqueue(make()))
    statvfs = os.statvfs

    def little(path: str) -> os.statvfs_result:
        fields = list(statvfs(path))
        fields[4] = 4 * 1024 * 1024 // fields[1]  # f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", little)
    waiting = [driver.store.enqueue(make()), driver.store.enqueue(spooled(b"y" * (40 * PIECE)))]
    for awaitable in waiting:
        with pytest.raises(QueueFull):
            driver.wait(awaitable)
    one, two = driver.wait(driver.store.incoming(0, 10))
    assert driver.wait(driver.store.finish(one, sent(*one.recipients), 0.0))
    bounced = [Outcome(two.recipients[0], "bounced", "5.1.1", "no")]
    assert driver.wait(driver.store.finish(two, bounced, 0.0, [make()]))
    monkeypatch.undo()
    driver.wait(driver.store.enqueue(make()))
    assert len(driver.wait(driver.store.incoming(0, 10))) == 2


def test_recovers_from_an_error(driver: SQLiteDriver) -> None:
    writer = driver.store._writer
    assert writer is not None and writer._db is not None
    writer._db.execute("PRAGMA query_only = ON")
    with pytest.raises(QueueError):
        driver.wait(driver.store.enqueue(make()))
    driver.wait(driver.store.enqueue(make()))


def test_read_only(driver: SQLiteDriver) -> None:
    driver.wait(driver.store.enqueue(make()))
    store = SQLiteStore(str(driver.directory), None, read_only=True)
    store.open()
    assert len(list(store.listing())) == 1
    with pytest.raises(QueueError):
        driver.wait(store.enqueue(make()))
    driver.wait(store.close())


def test_no_directory(tmp_path: Path) -> None:
    for store in (
        SQLiteStore(str(tmp_path / "none"), SQLiteDriver(tmp_path).reactor),
        SQLiteStore(str(tmp_path / "none"), None, read_only=True),
    ):
        with pytest.raises(QueueError):
            store.open()


def test_unknown_format(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "queue.db")
    db.execute("PRAGMA user_version = 77")
    db.close()
    with pytest.raises(QueueError, match="format is 77"):
        SQLiteDriver(tmp_path)


def test_name_with_odd_characters(tmp_path: Path) -> None:
    directory = tmp_path / "50%?#"
    os.mkdir(directory)
    driver = SQLiteDriver(directory)
    driver.wait(driver.store.enqueue(make()))
    driver.wait(driver.store.close())
    assert (directory / "queue.db").exists()


def test_a_file_that_cannot_be_opened_for_a_moment_is_opened_later(tmp_path: Path) -> None:
    """As when root makes one of those beside the database, which is not yet ours."""
    schema.make(str(tmp_path))
    obstacle = tmp_path / "queue.db-wal"
    obstacle.mkdir()
    remover = threading.Timer(0.05, obstacle.rmdir)
    remover.start()
    db = schema.connect(str(tmp_path))
    assert db.execute("PRAGMA page_size").fetchone() == (schema.PAGE,)
    db.close()
    remover.join()
    obstacle.mkdir()
    with pytest.raises(QueueError, match="unable to open database file"):
        schema.connect(str(tmp_path))
