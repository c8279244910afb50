"""Lookups by a real reactor, as the daemon does them, for tests of tables."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure

from mtad.errors import TableError
from mtad.tables import Table
from mtad.tables.blocking import BlockingTable
from mtad.tables.threads import Threads

T = TypeVar("T")


def in_reactor(work: Callable[[Any], Awaitable[T]], seconds: float = 60) -> T:
    """The result of ``work(reactor)``, with tables that work in threads."""
    reactor: Any = EPollReactor()
    outcome: list[Any] = []

    def ended(result: Any) -> None:
        outcome.append(result)
        reactor.stop()

    def start() -> None:
        ensureDeferred(work(reactor)).addBoth(ended)  # type: ignore[arg-type]
        reactor.callLater(seconds, ended, AssertionError(f"not done in {seconds} s"))

    BlockingTable.runner = Threads(reactor)
    try:
        reactor.callWhenRunning(start)
        reactor.run(installSignalHandlers=False)
    finally:
        BlockingTable.runner = None
    result = outcome[0]
    if isinstance(result, Failure):
        result.raiseException()
    if isinstance(result, BaseException):
        raise result
    return result  # type: ignore[no-any-return]


def lookup(table: Table, key: str) -> str | None:
    """One lookup without a reactor, as the commands do it."""
    waiting = table.lookup(key.encode())
    try:
        waiting.send(None)
    except StopIteration as done:
        value: bytes | None = done.value
        return None if value is None else value.decode()
    raise AssertionError("a lookup without a reactor waits")


def fails(table: Table, key: str) -> str:
    """The words with which a lookup fails."""
    try:
        value = lookup(table, key)
    except TableError as error:
        return str(error)
    raise AssertionError(f"not failed: {value!r}")


def until_found(table: Table, key: str, seconds: float = 60) -> str | None:
    """What a lookup gives once it gives anything; until then it must fail, never find nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = lookup(table, key)
        except TableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            assert value is not None
            return value


def pause(reactor: Any, seconds: float) -> Deferred[None]:
    """To be awaited."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done
