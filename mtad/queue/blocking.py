"""The queue for a command: a program without a reactor, which waits for each thing it asks for.

``with BlockingStore(directory) as queue: queue.wait(queue.store.hold(ids))``.  Raises QueueError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mtad.queue.sqlite import SQLiteStore

T = TypeVar("T")


class BlockingStore:
    """The queue in ``directory``, open for writing; a context manager."""

    def __init__(self, directory: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()
        self.store = SQLiteStore(directory, self)

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        """The store's writer has something for us."""
        self._calls.put((callable, args))

    def wait(self, awaitable: Awaitable[T]) -> T:
        """What comes of it."""
        results: list[Any] = []
        cast("Deferred[T]", awaitable).addBoth(results.append)
        while not results:
            call, args = self._calls.get()
            call(*args)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return cast("T", results[0])

    def __enter__(self) -> BlockingStore:
        self.store.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(self.store.close())
