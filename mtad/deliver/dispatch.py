"""Deliveries waiting for their turn: one queue per destination, messages in rotation.

A destination is a route (transport and next hop).  Each message in a queue gives one job in turn, so that a
message with many recipients does not hold up the others.  :class:`Dispatcher` starts as many jobs as
the destination's :class:`~mtad.deliver.throttle.Throttle` allows; the jobs of a dead destination are handed
back with its reason.  Nothing is raised.

Postfix counterpart: ``qmgr_queue``, ``qmgr_deliver``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from twisted.python.failure import Failure

from mtad.deliver.job import Job, Result
from mtad.deliver.route import Route
from mtad.deliver.throttle import Limits, Throttle
from mtad.net.drive import drive


class Handler(Protocol):
    """Who the dispatcher works for."""

    def deliver(self, job: Job) -> Coroutine[Any, Any, Result]:
        """Make this delivery."""

    def finished(self, job: Job, result: Result) -> None:
        """This delivery is over."""

    def suspended(self, job: Job, dsn: str, reason: str) -> None:
        """This delivery is not made: its destination is dead for that reason."""

    def broken(self, job: Job, failure: Failure) -> None:
        """This delivery ended with an exception, which is a mistake of the program."""


class _Queue:
    """The jobs for one destination."""

    __slots__ = ("messages", "pumping", "reason", "throttle")

    def __init__(self, limits: Limits) -> None:
        self.messages: deque[deque[Job]] = deque()
        self.throttle = Throttle(limits)
        self.reason = ("4.3.0", "")
        self.pumping = False

    def pop(self) -> Job:
        jobs = self.messages.popleft()
        job = jobs.popleft()
        if jobs:
            self.messages.append(jobs)
        return job


class Dispatcher:
    """All destinations.  ``limits_of`` gives the limits of a transport."""

    def __init__(
        self, handler: Handler, limits_of: Callable[[str], Limits], clock: Callable[[], float]
    ) -> None:
        self._handler = handler
        self._limits_of = limits_of
        self._clock = clock
        self._queues: dict[Route, _Queue] = {}
        self.running = 0
        self.stopped = False

    def add(self, route: Route, jobs: Iterable[Job]) -> None:
        """Deliver the jobs of one message when their turn comes."""
        queue = self._queues.get(route)
        if queue is None:
            queue = self._queues[route] = _Queue(self._limits_of(route.transport))
        queue.messages.append(deque(jobs))
        self._pump(route, queue)

    def stop(self) -> list[Job]:
        """Begin no more deliveries; gives those that waited for their turn."""
        self.stopped = True
        waiting = [job for queue in self._queues.values() for jobs in queue.messages for job in jobs]
        for queue in self._queues.values():
            queue.messages.clear()
        return waiting

    def revive(self) -> None:
        """Forget that destinations were dead (a flush was asked for)."""
        for queue in self._queues.values():
            if queue.throttle.dead_until:
                queue.throttle.revive()

    def sweep(self) -> None:
        """Forget destinations that there is nothing to remember of."""
        now = self._clock()
        for route, queue in list(self._queues.items()):
            if not queue.messages and not queue.throttle.busy and now >= queue.throttle.dead_until:
                del self._queues[route]

    def _pump(self, route: Route, queue: _Queue) -> None:
        if queue.pumping:  # a delivery ended at once: the loop below goes on
            return
        queue.pumping = True
        throttle = queue.throttle
        while queue.messages and not self.stopped:
            if throttle.dead_until:
                if self._clock() < throttle.dead_until:
                    self._handler.suspended(queue.pop(), *queue.reason)
                    continue
                throttle.revive()
            if not throttle.has_room():
                break
            self._start(route, queue, queue.pop())
        queue.pumping = False
        if not queue.messages and not throttle.busy and not throttle.dead_until:
            self._queues.pop(route, None)

    def _start(self, route: Route, queue: _Queue, job: Job) -> None:
        queue.throttle.busy += 1
        self.running += 1

        def done(result: Result) -> None:
            self._ended(queue)
            if result.unreached is None:
                queue.throttle.succeeded()
            elif queue.throttle.failed(self._clock()):
                queue.reason = result.unreached
            self._handler.finished(job, result)
            self._pump(route, queue)

        def failed(failure: Failure) -> None:
            self._ended(queue)
            self._handler.broken(job, failure)
            self._pump(route, queue)

        drive(self._handler.deliver(job), done, failed)

    def _ended(self, queue: _Queue) -> None:
        queue.throttle.busy -= 1
        self.running -= 1
