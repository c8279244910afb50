"""A reactor that a test turns by hand, and the embedded driver for the suite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from mtad.queue.sqlite import SQLiteStore

_PATIENCE = 30.0


class Turntable:
    """Runs what threads ask to be run, when ``wait`` is called."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self.wakes = 0

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self.calls.put((callable, args))

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        deferred = awaitable if isinstance(awaitable, Deferred) else ensureDeferred(awaitable)  # type: ignore
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            call, args = self.calls.get(timeout=_PATIENCE)
            self.wakes += 1
            call(*args)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


class SQLiteDriver:
    """See :class:`conformance.Driver`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reactor = Turntable()
        self.store = self.open()

    def open(self) -> SQLiteStore:
        store = SQLiteStore(str(self.directory), self.reactor)
        store.open()
        return store

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        return self.reactor.wait(awaitable)

    def reopen(self) -> None:
        self.wait(self.store.close())
        self.store = self.open()
