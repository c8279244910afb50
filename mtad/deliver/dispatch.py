"""Deliveries waiting for their turn: one queue per destination.

A destination is a transport and the name of a queue, mostly the next hop.  Its deliveries are made in the
order that :class:`~mtad.deliver.order.Order` gives; messages of a higher priority (RFC 6710) go before all
others.  :class:`Dispatcher` starts as many as the destination's :class:`~mtad.deliver.throttle.Throttle`
allows, and with ``_destination_rate_delay`` none before so long after the last one has ended.  A transport
with ``_transport_rate_delay`` makes one delivery at a time, each so long after the one before.  The jobs of a
dead destination are handed back with its reason, some at a time.  Nothing is raised.

Postfix counterpart: ``qmgr_queue``, ``qmgr_deliver``, ``qmgr_entry``, ``qmgr_transport``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mtad.deliver.clog import Clog, State
from mtad.deliver.job import Active, Job, Result
from mtad.deliver.limits import Limits
from mtad.deliver.order import Order
from mtad.deliver.throttle import Say, Throttle
from mtad.net.drive import drive

#: A destination: a transport, and the name of its queue.
Key = tuple[str, str]

#: Jobs that are handed back before others have their turn.
_PORTION = 100
#: Seconds between two deliveries one behind the other.
_BACK_TO_BACK = 1
_BROKEN = ("4.3.0", "unknown mail transport error")


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
        "_orders",
        "free_at",
        "key",
        "last_done",
        "pumping",
        "reason",
        "silent_until",
        "sticky",
        "throttle",
        "timer",
    )

    def __init__(self, key: Key, throttle: Throttle) -> None:
        self._orders: dict[int, Order] = {}  # by priority
        self.key = key
        self.throttle = throttle
        self.reason = _BROKEN
        self.pumping = False
        self.free_at = 0.0  # no delivery begins sooner
        self.timer: IDelayedCall | None = None
        self.last_done = float("-inf")
        self.sticky = False  # sessions are kept
        self.silent_until = 0.0  # about its being too long

    def __len__(self) -> int:
        return sum(order.waiting for order in self._orders.values())

    def __bool__(self) -> bool:
        return bool(self._orders)

    def push(self, active: Active, jobs: Sequence[Job], clock: Callable[[], float]) -> None:
        order = self._orders.get(active.priority)
        if order is None:
            order = self._orders[active.priority] = Order(self.throttle.limits, clock)
        order.add(active, jobs)

    def _first(self) -> int:
        """The highest priority."""
        return max(self._orders) if len(self._orders) > 1 else next(iter(self._orders))

    def pop(self) -> Job:
        priority = self._first()
        order = self._orders[priority]
        job = order.next()
        if not order.waiting:
            del self._orders[priority]
        return job

    def rank(self) -> tuple[int, float]:
        """The lower one goes first where a transport makes one delivery at a time."""
        priority = self._first()
        return -priority, self._orders[priority].first().since

    def clear(self) -> list[Job]:
        """Take all jobs out."""
        jobs = [job for order in self._orders.values() for job in order.clear()]
        self._orders.clear()
        self.rest()
        return jobs

    def rest(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None


class _Gate:
    """The one way through which the deliveries of a transport go that makes one at a time."""

    __slots__ = ("shut", "timer", "waiting")

    def __init__(self) -> None:
        self.shut = False
        self.waiting: list[_Queue] = []
        self.timer: IDelayedCall | None = None

    def rest(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


class Dispatcher:
    """All destinations.  ``limits_of`` gives the limits of a transport; ``later`` is the reactor's; ``say``
    takes what is to be logged of feedback."""

    def __init__(
        self,
        handler: Handler,
        limits_of: Callable[[str], Limits],
        clock: Callable[[], float],
        later: Callable[..., IDelayedCall],
        say: Say,
        clog: Clog,
    ) -> None:
        self._handler = handler
        self._limits_of = limits_of
        self._clock = clock
        self._later = later
        self._say = say
        self._clog = clog
        self._queues: dict[Key, _Queue] = {}
        self._gates: dict[str, _Gate] = {}
        self._met: set[str] = set()  # transports whose limits were logged
        self._suspended: deque[tuple[Job, tuple[str, str]]] = (
            deque()
        )  # to be handed back, each with the reason
        self._suspending = False
        self.running = 0
        self.stopped = False

    def add(self, key: Key, active: Active, jobs: Sequence[Job]) -> None:
        """Deliver these jobs of a message when their turn comes."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = self._new(key)
        elif active.flushed and queue.throttle.dead_until:
            queue.throttle.revive()
        queue.push(active, jobs, self._clock)
        threshold = self._clog.threshold
        if threshold is not None and len(queue) + queue.throttle.busy > threshold:
            self._warn(queue, jobs[0].route.nexthop)
        self._pump(queue)

    def _new(self, key: Key) -> _Queue:
        transport, name = key
        limits = self._limits_of(transport)
        if not limits.told:
            return _Queue(key, Throttle(limits))
        if transport not in self._met:
            self._met.add(transport)
            for line in limits.told:
                self._say(line)
        return _Queue(key, Throttle(limits, name, self._say))

    def _warn(self, queue: _Queue, nexthop: str) -> None:
        """The queue is long: say so, unless it was said a short while ago."""
        now, throttle = self._clock(), queue.throttle
        if now < queue.silent_until:
            return
        transport, busy = queue.key[0], throttle.busy
        alone = sum(name == transport for name, _ in self._queues) == 1
        length = len(queue) + busy
        state = State(transport, nexthop, length, busy, throttle.window, throttle.limits, alone)
        queue.silent_until = now + self._clog.warn(state)

    def stop(self) -> list[Job]:
        """Begin no more deliveries; gives those that waited for their turn."""
        self.stopped = True
        for gate in self._gates.values():
            gate.rest()
        jobs = [job for job, _ in self._suspended]
        self._suspended.clear()
        return jobs + [job for queue in self._queues.values() for job in queue.clear()]

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
                    self._suspend(queue)
                    continue
                throttle.revive()
            if not throttle.has_room() or self._too_soon(queue):
                break
            if throttle.limits.transport_delay:
                self._wait_at_the_gate(queue)
                break
            self._start(queue, queue.pop())
        queue.pumping = False
        if not queue and not throttle.busy and not throttle.dead_until and self._clock() >= queue.free_at:
            self._queues.pop(queue.key, None)

    def _too_soon(self, queue: _Queue) -> bool:
        """Whether a rate delay is not over yet; then the queue is looked at again when it is."""
        if not queue.free_at:
            return False
        wait = queue.free_at - self._clock()
        if wait <= 0:
            return False
        if queue.timer is None or not queue.timer.active():
            queue.timer = self._later(wait, self._pump, queue)
        return True

    def _wait_at_the_gate(self, queue: _Queue) -> None:
        gate = self._gates.get(queue.key[0])
        if gate is None:
            gate = self._gates[queue.key[0]] = _Gate()
        if queue not in gate.waiting:
            gate.waiting.append(queue)
        if not gate.shut:
            gate.shut = True
            delay = queue.throttle.limits.transport_delay
            gate.timer = self._later(delay, self._pass_the_gate, gate)

    def _pass_the_gate(self, gate: _Gate) -> None:
        """One may go; then nobody before it has arrived."""
        gate.shut = False
        ready = [queue for queue in gate.waiting if queue and self._ready(queue)]
        gate.waiting = ready
        if ready and not self.stopped:
            queue = min(ready, key=_Queue.rank)
            gate.waiting.remove(queue)
            gate.shut = True
            self._start(queue, queue.pop(), gate)

    def _ready(self, queue: _Queue) -> bool:
        throttle = queue.throttle
        return not throttle.dead_until and throttle.has_room() and not self._too_soon(queue)

    def _open(self, gate: _Gate) -> None:
        gate.shut = False
        waiting, gate.waiting = gate.waiting, []
        for queue in waiting:
            self._pump(queue)

    def _start(self, queue: _Queue, job: Job, gate: _Gate | None = None) -> None:
        queue.throttle.busy += 1
        self.running += 1
        job.busy = self._keeps_sessions(queue)

        def done(result: Result) -> None:
            if result.unreached is None:
                queue.throttle.succeeded()
            else:
                self._failed(queue, result.unreached)
            self._ended(queue)
            self._handler.finished(job, result)
            go_on()

        def failed(failure: Failure) -> None:
            self._failed(queue, _BROKEN)
            self._ended(queue)
            self._handler.broken(job, failure)
            go_on()

        def go_on() -> None:
            self._pump(queue)
            if gate is not None:
                self._open(gate)

        drive(self._handler.deliver(job), done, failed)

    def _failed(self, queue: _Queue, reason: tuple[str, str]) -> None:
        """A destination was not reached; when it is dead by that, what waits for it is handed back."""
        if not queue.throttle.failed(self._clock()):
            return
        queue.reason = reason
        if queue.throttle.limits.rate_delay:  # it is tried again after that
            self._suspend(queue)
            queue.throttle.revive()

    def _suspend(self, queue: _Queue) -> None:
        """Hand back what waits for a dead destination."""
        self._suspended += [(job, queue.reason) for job in queue.clear()]
        if not self._suspending:
            self._hand_back()

    def _hand_back(self) -> None:
        self._suspending = True
        for _ in range(_PORTION):
            if self._suspended:
                job, reason = self._suspended.popleft()
                self._handler.suspended(job, *reason)
        self._suspending = bool(self._suspended)
        if self._suspending:
            self._later(0.0, self._hand_back)

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
