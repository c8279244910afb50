"""The threads in which tables wait: one pool in a process, of its own and bounded.

:class:`Threads` gives each table's work (a :class:`~mtad.tables.blocking.Lane`) a few threads at a time,
so that a server that hangs holds up its own table only.  What can't run yet waits in the lane; what would
make that too long, or has waited for too long, fails with :class:`~mtad.errors.TableError`: memory is
bounded, and so is the time that a client waits.  Threads begin when they are first needed and stay.

All of it is done in the reactor's thread, except the work itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mtad.errors import TableError
from mtad.tables.blocking import Lane

T = TypeVar("T")


class _Job(NamedTuple):
    lane: Lane
    work: Callable[[], Any]
    done: Deferred[Any]
    since: float


class Threads:
    """A pool of at most ``limit`` threads."""

    def __init__(self, reactor: Any, limit: int = 64, *, backlog: int = 1000, patience: float = 60) -> None:
        self._reactor = reactor
        self._limit = limit
        self._backlog = backlog
        self._patience = patience
        self._busy = 0
        self._threads = 0
        self._lanes: dict[Lane, None] = {}  # those where something waits, the longest first
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()

    def run(self, lane: Lane, work: Callable[[], T]) -> Deferred[T]:
        """Do ``work`` in a thread, as soon as the lane's turn comes."""
        if len(lane.waiting) >= self._backlog:
            raise TableError(f"{lane.name}: too many lookups are waiting")
        done: Deferred[T] = Deferred()
        lane.waiting.append(_Job(lane, work, done, self._reactor.seconds()))
        self._lanes.setdefault(lane)
        self._start()
        return done

    def tell(self, function: Callable[[str], None], text: str) -> None:
        """Have ``function(text)`` called in the reactor's thread."""
        self._reactor.callFromThread(function, text)

    def _start(self) -> None:
        """Start what may run now, one job of each lane in turn."""
        progress = True
        while progress and self._busy < self._limit:
            progress = False
            for lane in list(self._lanes):
                if self._busy < self._limit and lane.running < lane.limit:
                    progress = True
                    self._start_one(lane)
                    del self._lanes[lane]
                    if lane.waiting:
                        self._lanes[lane] = None

    def _start_one(self, lane: Lane) -> None:
        job = lane.waiting.popleft()
        if self._reactor.seconds() - job.since > self._patience:
            self._reactor.callLater(
                0, job.done.errback, TableError(f"{lane.name}: a lookup has waited for too long")
            )
            return
        lane.running += 1
        self._busy += 1
        self._jobs.put(job)
        if self._threads < self._busy:
            self._threads += 1
            threading.Thread(target=self._work, name="table", daemon=True).start()

    def _work(self) -> None:
        """A thread's life."""
        while True:
            job = self._jobs.get()
            result: Any
            try:
                result = job.work()
            except BaseException:
                result = Failure()
            self._reactor.callFromThread(self._finished, job, result)
            del job, result

    def _finished(self, job: _Job, result: Any) -> None:
        self._busy -= 1
        job.lane.running -= 1
        self._start()
        job.done.callback(result)
