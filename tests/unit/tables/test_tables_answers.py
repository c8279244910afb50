"""What a ``hash:`` table remembers of its file: some answers, then all; nothing of before a change."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mtad.errors import TableError
from mtad.tables import Maps
from mtad.tables.bdb_write import write_hash
from mtad.tables.berkeley import BerkeleyTable
from mtad.tables.registry import open_table
from mtad.tables.table import Watch

Entries = dict[bytes, bytes]


def written(path: Path, entries: Entries, nul: bytes = b"\0", age: int = 1000) -> None:
    write_hash(str(path), [(key + nul, value + nul) for key, value in entries.items()])
    seconds = path.stat().st_mtime - age  # no change in the same tick of the clock
    os.utime(path, (seconds, seconds))


def opened(path: Path) -> BerkeleyTable:
    table = open_table(f"hash:{path}".removesuffix(".db"))
    assert isinstance(table, BerkeleyTable)
    return table


MANY: Entries = {b"key%d" % number: b"value %d" % number for number in range(1500)}


@pytest.mark.parametrize("nul", [b"\0", b""])
def test_many_questions(tmp_path: Path, nul: bytes) -> None:
    path = tmp_path / "t.db"
    written(path, MANY, nul)
    table = opened(path)
    for _ in range(3):
        for key, value in MANY.items():
            assert table.answer(key) == value
            assert table.answer(b"no " + key) is None
        assert table.answer(b"KEY1") == b"value 1"
        assert table.answer(b"key1\0") is None
        assert table.answer(b"\xff") is None


@pytest.mark.parametrize("count", [3, 1500])
def test_a_change_is_seen(tmp_path: Path, count: int) -> None:
    path = tmp_path / "t.db"
    written(path, MANY, age=2000)
    table = opened(path)
    for key in [*MANY][:count] * 2:
        table.answer(key)
    assert table.answer(b"new") is None
    written(path, {b"key1": b"changed", b"new": b"here"})
    assert [table.answer(key) for key in (b"key1", b"new", b"key2")] == [b"changed", b"here", None]


def test_a_pause_between_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(Watch, "pause", 5.0)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    path = tmp_path / "t.db"
    written(path, {b"a": b"1"}, age=2000)
    table = opened(path)
    assert table.answer(b"a") == b"1"
    written(path, {b"a": b"2"})
    now[0] += 4
    assert table.answer(b"a") == b"1"
    now[0] += 2
    assert table.answer(b"a") == b"2"


def test_a_broken_value_stays_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    written(path, {**MANY, b"bad": b"\xff\xfe"})
    table = opened(path)
    for key in MANY:
        table.answer(key)
        table.answer(b"no " + key)
    for _ in range(2):
        with pytest.raises(TableError, match="non-UTF-8"):
            table.answer(b"bad")


def test_by_maps(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    written(path, {b"u@d.example": b"x", b"d.example": b""})
    maps = Maps(f"hash:{tmp_path}/t inline:{{other=y}}")
    assert maps.at_once and not maps.only_patterns
    assert asyncio.run(maps.find_address(b"u@d.example")) == b"x"
    assert asyncio.run(maps.lookup(b"other")) == b"y"
    with pytest.raises(TableError, match="empty string result"):
        asyncio.run(maps.lookup(b"d.example"))
    assert Maps("cidr:{{192.0.2.0/24 x}}").only_patterns
