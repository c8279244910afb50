"""Work that is under way only once, however many wait for it.

Postfix counterpart: none; its processes wait one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SharedWork(Generic[T]):
    """Calling it begins ``work`` unless it is under way; the Deferred fires with what came of it.

    Who waits may cancel; the work goes on for the others, and for the next who asks.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._waiting: list[Deferred[T]] = []
        self._running = False

    def __call__(self) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._work()).addBoth(self._finished)
        return waiter

    def _finished(self, result: T | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        self._running = False
        for waiter in waiting:
            waiter.callback(result)
