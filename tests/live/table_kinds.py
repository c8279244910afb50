"""What must hold for every kind of table server, given a table whose key ``joe@example.com`` is in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from live.databases import Server
from live.lookups import fails, in_reactor, lookup, pause, until_found
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from mtad.errors import TableError
from mtad.tables import Table, open_table

JOE, NOBODY = "joe@example.com", "nobody@example.com"


def check_killed_and_brought_back(server: Server, table: Table, value: str) -> None:
    """A dead server is a failure, never "not found"; a new one is used soon, also for what is not there."""
    assert lookup(table, JOE) == value
    assert lookup(table, NOBODY) is None
    server.kill()
    try:
        assert fails(table, JOE)
        assert fails(table, NOBODY)
    finally:
        server.start()
    assert until_found(table, JOE) == value
    assert lookup(table, NOBODY) is None


def check_restart_between(server: Server, table: Table, value: str) -> None:
    """A restart between two lookups is not noticed: the connection is made anew at once."""
    assert lookup(table, JOE) == value
    server.kill()
    server.start()
    assert lookup(table, JOE) == value


def check_killed_under_load(server: Server, table: Table, value: str, restore: Callable[[], None]) -> None:
    """Killed and brought back while many look up: each lookup finds the value or fails."""
    found, failed = [], []

    async def client(until: float) -> None:
        while time.monotonic() < until:
            try:
                found.append(await table.lookup(JOE.encode()))
            except TableError as error:
                failed.append(error)
                await pause(server_reactor[0], 0.01)

    server_reactor: list[Any] = []

    async def work(reactor: Any) -> None:
        server_reactor.append(reactor)
        until = time.monotonic() + 3
        clients = [ensureDeferred(client(until)) for _ in range(20)]
        await pause(reactor, 0.3)
        server.kill()
        before = len(found)
        await pause(reactor, 0.5)
        server.start()  # holds up the reactor for a moment, not the threads
        restore()
        assert before
        await gatherResults(clients)
        found.clear()
        await client(time.monotonic() + 1.5)

    in_reactor(work)
    assert failed
    assert set(found) == {value.encode()}


def check_hanging(server: Server, table: Table, limit: float) -> None:
    """A server that hangs holds up its own table only, and not for ever."""

    async def work(reactor: Any) -> None:
        assert await table.lookup(JOE.encode()) is not None
        server.freeze()
        other = open_table("sqlite:" + str(server.root / "other.cf"))
        try:
            waiting: list[Deferred[Any]] = [ensureDeferred(table.lookup(JOE.encode())) for _ in range(30)]
            for each in waiting:
                each.addErrback(lambda failure: failure.trap(TableError))
            start = time.monotonic()
            for _ in range(20):
                assert await other.lookup(b"key") == b"value"
            assert not any(each.called for each in waiting[:4])
            await waiting[0]
            assert time.monotonic() - start < limit
        finally:
            server.thaw()
            other.close()
        await gatherResults(waiting)

    other_table(server)
    in_reactor(work)


def other_table(server: Server) -> None:
    """A table that has nothing to do with the server."""
    (server.root / "other.cf").write_text(
        f"dbpath = {server.root}/other.db\nquery = SELECT 'value' WHERE '%s' = 'key'\n"
    )
    (server.root / "other.db").touch()
