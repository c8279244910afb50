"""Deliveries waiting for their turn: one queue per destination, messages in rotation.

A destination is a transport and the name of a queue, mostly the next hop.  Each message in a queue gives one
job in turn, so that a message with many recipients does not hold up the others; messages of a higher priority
(RFC 6710) go before all others.  :class:`Dispatcher` starts as many jobs as the destination's
:class:`~mtad.deliver.throttle.Throttle` allows, no sooner than the rate delays of the destination and of the
transport; the jobs of a dead destination are handed back with its reason.  Nothing is raised.

Postfix counterpart: ``qmgr_queue``, ``qmgr_deliver``; ``qmgr_job`` for its purpose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mtad.deliver.job import Job, Result
from mtad.deliver.throttle import Limits, Throttle
from mtad.net.drive import drive

#: A destination: a transport, and the name of its queue.
Key = tuple[str, str]

#: Seconds between two deliveries one behind the other.
_BACK_TO_BACK = 1


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

    __slots__ = (
        "_waiting",
        "free_at",
        "key",
        "last_done",
        "pumping",
        "reason",
        "sticky",
        "throttle",
        "timer",
    )

    def __init__(self, key: Key, limits: Limits) -> None:
        self._waiting: dict[int, deque[deque[Job]]] = {}  # by priority
        self.key = key
        self.throttle = Throttle(limits)
        self.reason = ("4.3.0", "")
        self.pumping = False
        self.free_at = 0.0  # no delivery begins sooner
        self.timer: IDelayedCall | None = None
        self.last_done = float("-inf")
        self.sticky = False  # sessions are kept

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def push(self, jobs: Iterable[Job], priority: int) -> None:
        self._waiting.setdefault(priority, deque()).append(deque(jobs))

    def pop(self) -> Job:
        priority = max(self._waiting) if len(self._waiting) > 1 else next(iter(self._waiting))
        messages = self._waiting[priority]
        jobs = messages.popleft()
        job = jobs.popleft()
        if jobs:
            messages.append(jobs)
        elif not messages:
            del self._waiting[priority]
        return job

    def clear(self) -> list[Job]:
        """Take all jobs out."""
        jobs = [job for messages in self._waiting.values() for some in messages for job in some]
        self._waiting.clear()
        self.rest()
        return jobs

    def rest(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None


class Dispatcher:
    """All destinations.  ``limits_of`` gives the limits of a transport; ``later`` is the reactor's."""

    def __init__(
        self,
        handler: Handler,
        limits_of: Callable[[str], Limits],
        clock: Callable[[], float],
        later: Callable[..., IDelayedCall],
    ) -> None:
        self._handler = handler
        self._limits_of = limits_of
        self._clock = clock
        self._later = later
        self._queues: dict[Key, _Queue] = {}
        self._transport_free_at: dict[str, float] = {}
        self.running = 0
        self.stopped = False

    def add(self, key: Key, jobs: Iterable[Job], priority: int = 0) -> None:
        """Deliver the jobs of one message when their turn comes."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(key, self._limits_of(key[0]))
        queue.push(jobs, priority)
        self._pump(queue)

    def stop(self) -> list[Job]:
        """Begin no more deliveries; gives those that waited for their turn."""
        self.stopped = True
        return [job for queue in self._queues.values() for job in queue.clear()]

    def revive(self) -> None:
        """Forget that destinations were dead (a flush was asked for)."""
        for queue in self._queues.values():
            if queue.throttle.dead_until:
                queue.throttle.revive()

    def sweep(self) -> None:
        """Forget destinations that there is nothing to remember of."""
        now = self._clock()
        for key, queue in list(self._queues.items()):
            idle = not queue and not queue.throttle.busy
            if idle and now >= max(queue.throttle.dead_until, queue.free_at):
                del self._queues[key]

    def _pump(self, queue: _Queue) -> None:
        if queue.pumping:  # a delivery ended at once: the loop below goes on
            return
        queue.pumping = True
        throttle = queue.throttle
        while queue and not self.stopped:
            if throttle.dead_until:
                if self._clock() < throttle.dead_until:
                    self._handler.suspended(queue.pop(), *queue.reason)
                    continue
                throttle.revive()
            if not throttle.has_room() or self._too_soon(queue):
                break
            self._start(queue, queue.pop())
        queue.pumping = False
        if not queue and not throttle.busy and not throttle.dead_until and self._clock() >= queue.free_at:
            self._queues.pop(queue.key, None)

    def _too_soon(self, queue: _Queue) -> bool:
        """Whether a rate delay is not over yet; then the queue is looked at again when it is."""
        limits = queue.throttle.limits
        if not (limits.rate_delay or limits.transport_delay):
            return False
        wait = max(queue.free_at, self._transport_free_at.get(queue.key[0], 0.0)) - self._clock()
        if wait <= 0:
            return False
        if queue.timer is None or not queue.timer.active():
            queue.timer = self._later(wait, self._pump, queue)
        return True

    def _start(self, queue: _Queue, job: Job) -> None:
        queue.throttle.busy += 1
        self.running += 1
        limits = queue.throttle.limits
        if limits.transport_delay:
            self._transport_free_at[queue.key[0]] = self._clock() + limits.transport_delay

        job.busy = self._keeps_sessions(queue)

        def done(result: Result) -> None:
            self._ended(queue)
            if result.unreached is None:
                queue.throttle.succeeded()
            elif queue.throttle.failed(self._clock()):
                queue.reason = result.unreached
            self._handler.finished(job, result)
            self._pump(queue)

        def failed(failure: Failure) -> None:
            self._ended(queue)
            self._handler.broken(job, failure)
            self._pump(queue)

        drive(self._handler.deliver(job), done, failed)

    def _keeps_sessions(self, queue: _Queue) -> bool:
        """Whether deliveries follow each other so fast that sessions are worth to be kept."""
        back_to_back = queue.last_done + _BACK_TO_BACK >= self._clock()
        queue.sticky = back_to_back or (queue.sticky and queue.throttle.busy > 1)
        return queue.sticky

    def _ended(self, queue: _Queue) -> None:
        queue.throttle.busy -= 1
        queue.last_done = self._clock()
        self.running -= 1
        if queue.throttle.limits.rate_delay:
            queue.free_at = self._clock() + queue.throttle.limits.rate_delay
