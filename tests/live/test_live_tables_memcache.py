"""``memcache:`` against memcached."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import table_kinds
from live.databases import Memcached, why_not
from live.lookups import fails, in_reactor, lookup, pause
from twisted.internet.defer import ensureDeferred, gatherResults

from mtad.tables import Table, open_table

pytestmark = pytest.mark.skipif(bool(why_not(Memcached)), reason=why_not(Memcached))


@pytest.fixture(scope="module")
def server() -> Iterator[Memcached]:
    with Memcached() as memcached:
        assert isinstance(memcached, Memcached)
        yield memcached


@pytest.fixture
def table(server: Memcached, tmp_path: Path) -> Iterator[Table]:
    server.set(b"joe@example.com", VALUE.encode())
    opened = opened_with(tmp_path, cf(server))
    yield opened
    opened.close()


def opened_with(directory: Path, text: str) -> Table:
    path = directory / "memcache.cf"
    path.write_text(text)
    return open_table(f"memcache:{path}")


VALUE = "joe@imap.example.com"


def cf(server: Memcached) -> str:
    return f"memcache = inet:127.0.0.1:{server.port}\ntimeout = 1\n"


def test_killed_and_brought_back(server: Memcached, table: Table) -> None:
    """What it comes back with is nothing; that is "not found", for a cache without a backup."""
    assert lookup(table, "joe@example.com") == VALUE
    server.kill()
    try:
        assert fails(table, "joe@example.com")
        assert fails(table, "nobody@example.com")
    finally:
        server.start()
    assert lookup(table, "joe@example.com") is None
    server.set(b"joe@example.com", b"again")
    assert lookup(table, "joe@example.com") == "again"


def test_killed_under_load(server: Memcached, tmp_path: Path) -> None:
    """With a backup nobody sees any of it."""
    (tmp_path / "backup").write_text(f"joe@example.com {VALUE}\n")
    text = cf(server) + f"backup = texthash:{tmp_path}/backup\nkey_format = x:%s\n"
    table = opened_with(tmp_path, text)

    async def work(reactor: Any) -> None:
        found = []

        async def client(until: float) -> None:
            while time.monotonic() < until:
                found.append(await table.lookup(b"joe@example.com"))

        clients = [ensureDeferred(client(time.monotonic() + 2)) for _ in range(10)]
        await pause(reactor, 0.3)
        assert server.ask(b"get x:joe@example.com").startswith(b"VALUE x:joe@example.com 0 20\r\n")
        server.kill()
        await pause(reactor, 0.3)
        server.start()
        await gatherResults(clients)
        assert len(found) > 50
        assert set(found) == {VALUE.encode()}
        assert server.ask(b"get x:joe@example.com").startswith(b"VALUE x:joe@example.com 0 20\r\n")

    in_reactor(work)
    table.close()


def test_hanging(server: Memcached, table: Table) -> None:
    table_kinds.check_hanging(server, table, 10)


def test_values_that_are_too_long(server: Memcached, tmp_path: Path) -> None:
    server.set(b"long", b"x" * 100)
    table = opened_with(tmp_path, cf(server) + "data_size_limit = 99\nmax_try = 1\n")
    assert "unexpected memcache server reply" in fails(table, "long")
    table.close()
    table = opened_with(tmp_path, cf(server) + "data_size_limit = 100\n")
    assert lookup(table, "long") == "x" * 100
    table.close()


def test_digested_keys(server: Memcached, tmp_path: Path) -> None:
    server.set(hashlib.sha256(b"a:two words").hexdigest().encode(), b"digested")
    table = opened_with(tmp_path, cf(server) + "key_format = a:%s\nkey_digest = sha256\n")
    assert lookup(table, "two words") == "digested"
    table.close()
